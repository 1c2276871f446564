"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Has glibc return pages that nothing uses any more; elsewhere the allocator does so by itself.

    After a conversion glibc keeps 1.2 GB of a BERT-large's freed weights, among which little is still in use, and the
    next stage would come on top of them.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):  # musl has none
            library.malloc_trim(0)
