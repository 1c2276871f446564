"""An original whose hidden states are pooled as sentence-transformers does, for packages that pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from optimum_ane.package.form import ExportForm
    from optimum_ane.validation.comparison import Model


class PooledOriginal:
    """A transformers encoder that gives one vector per row, as `pooler_output`.

    Args:
        model: The encoder.
        pooling: `"mean"` over the tokens that are not padding, or `"cls"`, the first token.
        normalize: Divide by the Euclidean norm.
    """

    def __init__(self, model: PreTrainedModel, pooling: str, normalize: bool) -> None:
        self.model, self.pooling, self.normalize = model, pooling, normalize
        self.forward = model.forward
        """What says which inputs are taken."""

    def __call__(self, attention_mask: Tensor, **inputs: Any) -> BaseModelOutputWithPooling:
        """Takes what the encoder takes, with the mask."""
        answer = self.model(attention_mask=attention_mask, **inputs)
        hidden = answer.last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = attention_mask.unsqueeze(-1).float()
            pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        if self.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return BaseModelOutputWithPooling(pooler_output=pooled, hidden_states=answer.get("hidden_states"))


def as_reference(model: PreTrainedModel, form: ExportForm) -> Model:
    """The original as a package of this form is compared with it."""
    return PooledOriginal(model, str(form.pooling), form.normalize) if form.pools else model
