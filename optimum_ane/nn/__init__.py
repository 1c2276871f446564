"""Building blocks in the Neural Engine's layout: activations are (B, C, 1, S), the sequence last.

Imports torch and nothing else, so that the blocks serve any model and any exporter.
"""

from optimum_ane.nn.activations import get_activation
from optimum_ane.nn.attention import split_head_attention
from optimum_ane.nn.embeddings import TextEmbeddings
from optimum_ane.nn.layout import from_bc1s, to_bc1s
from optimum_ane.nn.mask import additive_mask
from optimum_ane.nn.norm import LayerNorm, raise_epsilons_for_float16
from optimum_ane.nn.pooling import SentenceDense, SentencePooling
from optimum_ane.nn.projection import Projection, VocabularyProjection
from optimum_ane.nn.relative import skew

__all__ = [
    "LayerNorm",
    "Projection",
    "SentenceDense",
    "SentencePooling",
    "TextEmbeddings",
    "VocabularyProjection",
    "additive_mask",
    "from_bc1s",
    "get_activation",
    "raise_epsilons_for_float16",
    "skew",
    "split_head_attention",
    "to_bc1s",
]
