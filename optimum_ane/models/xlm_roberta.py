"""XLM-RoBERTa: RoBERTa with a multilingual vocabulary."""

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.models.roberta import RobertaANEConfig


@register_for_ane("xlm-roberta")
class XLMRobertaANEConfig(RobertaANEConfig):
    """Export configuration of XLM-RoBERTa."""
