"""One file per architecture, named as its `model_type`. Importing this package registers them all."""

from optimum_ane.models import albert, bert, camembert, deberta_v2, distilbert, electra, mpnet, roberta, xlm_roberta

__all__ = ["albert", "bert", "camembert", "deberta_v2", "distilbert", "electra", "mpnet", "roberta", "xlm_roberta"]
