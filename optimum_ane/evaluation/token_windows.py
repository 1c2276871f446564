"""A text of tokens cut into windows, so that each token is scored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optimum_ane.errors import CheckpointError, DatasetError


class Window(NamedTuple):
    """What a model is given at once, and what is scored of its answer.

    Attributes:
        ids: n inputs, at most the context.
        positions: int64 (K,), ascending: the inputs whose answers are scored, each with the token after it.
        targets: int64 (K,), those tokens.
    """

    ids: list[int]
    positions: np.ndarray
    targets: np.ndarray


def tokenize_text(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Tokenises a text.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text: The text.

    Returns:
        The special tokens that the tokenizer puts before any text (none, or that of its beginning), and the text's
        own tokens. What it puts after a text is left out: windows end in the middle.
    """
    marks = tokenizer("a", return_special_tokens_mask=True)
    start = next((place for place, is_special in enumerate(marks["special_tokens_mask"]) if not is_special), 0)
    return marks["input_ids"][:start], tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def make_windows(prefix: Sequence[int], tokens: Sequence[int], length: int, stride: int | None = None) -> list[Window]:
    """Cuts a text into windows. The first scores as many tokens as it can hold, each further one `stride` new ones.

    Each window begins with the prefix, as the model was trained to see a text, and holds as many tokens before its
    first scored one as there is room for. Without a prefix the first token of the text is scored nowhere.

    Args:
        prefix: Special tokens that stand before a text.
        tokens: T tokens of the text.
        length: The context: most inputs of a window.
        stride: Tokens that each window scores; None takes as many as leave each a token before it.

    Raises:
        DatasetError: The stride is larger than that, or the text has nothing to score.
        CheckpointError: The context holds nothing but special tokens.
    """
    room = length + 1 - len(prefix)  # the last token of a window is a target only, and no input
    most = room - (not prefix)
    if most < 1:
        raise CheckpointError(f"a context of {length} tokens has room for {len(prefix)} special tokens and no other")
    step = most if stride is None else stride
    if step > most:
        raise DatasetError(f"a --stride of {stride} leaves tokens out; windows of {length} take up to {most}")
    scored = 0 if prefix else 1
    if len(tokens) <= scored:
        raise DatasetError("the text has no token that another one stands before; take another dataset")
    windows: list[Window] = []
    while scored < len(tokens):
        end = min(len(tokens), room if not windows else scored + step)
        begin = max(0, end - room)
        ids = [*prefix, *tokens[begin:end]]
        positions = np.arange(scored, end) - begin + len(prefix) - 1
        windows.append(Window(ids[:-1], positions, np.asarray(tokens[scored:end], dtype=np.int64)))
        scored = end
    return windows
