"""CamemBERT: RoBERTa trained on French."""

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.models.roberta import RobertaANEConfig


@register_for_ane("camembert")
class CamembertANEConfig(RobertaANEConfig):
    """Export configuration of CamemBERT."""
