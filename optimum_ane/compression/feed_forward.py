"""Which weights are those of feed-forward layers, by the names that transformers' modules give them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYERS = re.compile(
    r"(^|_)(mlps?|ffns?|feed_forward|fc_?1|fc_?2|fc_in|fc_out|experts?|intermediate_dense|output_dense|ff_layer)(_|\d|$)"
)
"""Parts of names, with `_` for the dots of a module's path. Of the causal language models of transformers 5.23 with
attention these are in the names of all feed-forward layers."""

_OTHERS = re.compile(r"attention|attn|(mlp|moe|experts?)_(gate|router)(_weight|_\d|$)|router")
"""Parts of names that say otherwise: BERT's `attention.output.dense`, and what chooses a token's experts, which is
small, and wrong altogether where it is a little wrong."""


def is_feed_forward(name: str, readers: Iterable[str]) -> bool:
    """Tells a feed-forward layer's weight.

    Args:
        name: Of the weight in the program.
        readers: The names of the operations that read it, which are those of modules too: GPT-2's weights are stored
            transposed and lose their own.
    """
    return any(_LAYERS.search(each) and not _OTHERS.search(each) for each in (name, *readers))
