"""Building blocks in the Neural Engine's layout: activations are (B, C, 1, S), the sequence last.

Imports torch and nothing else, so that the blocks serve any model and any exporter.
"""

from optimum_ane.nn.activations import get_activation
from optimum_ane.nn.attention import split_head_attention
from optimum_ane.nn.embeddings import TextEmbeddings
from optimum_ane.nn.find_layers import find_layers, first_argument, first_tensor
from optimum_ane.nn.fixed_length import at_length
from optimum_ane.nn.layer_stack import LayerStack
from optimum_ane.nn.layout import from_bc1s, to_bc1s
from optimum_ane.nn.mask import MASKED, additive_mask, window_mask
from optimum_ane.nn.norm import LayerNorm, raise_epsilons_for_float16
from optimum_ane.nn.packed_projection import PackedProjection
from optimum_ane.nn.pooling import SentenceDense, SentencePooling, first_position, first_token, mean_over_tokens
from optimum_ane.nn.projection import Projection, VocabularyProjection
from optimum_ane.nn.relative import skew
from optimum_ane.nn.rotary import apply_rotary, rotary_tables
from optimum_ane.nn.submodules import add_submodule

__all__ = [
    "MASKED",
    "LayerNorm",
    "LayerStack",
    "PackedProjection",
    "Projection",
    "SentenceDense",
    "SentencePooling",
    "TextEmbeddings",
    "VocabularyProjection",
    "add_submodule",
    "additive_mask",
    "apply_rotary",
    "at_length",
    "find_layers",
    "first_argument",
    "first_position",
    "first_tensor",
    "first_token",
    "from_bc1s",
    "get_activation",
    "mean_over_tokens",
    "raise_epsilons_for_float16",
    "rotary_tables",
    "skew",
    "split_head_attention",
    "to_bc1s",
    "window_mask",
]
