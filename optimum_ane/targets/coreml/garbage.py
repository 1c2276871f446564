"""When Python collects garbage during a conversion."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def what_is_new_collected() -> Iterator[None]:
    """Collects the garbage that a block makes at its end, and lets all collections pass by what there was before.

    A conversion makes many objects, in circles that hold all weights, and sets off many collections, each of which
    would go through every object of every library. An application that has frozen its objects itself keeps them so.
    """
    has_frozen = gc.get_freeze_count() > 0
    if not has_frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if not has_frozen:
            gc.unfreeze()
