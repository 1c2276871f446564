"""Small file systems in memory, which are soon full."""

import ctypes

import pytest


class mounted:  # noqa: N801 - reads as what it does
    """A small file system in memory, for the length of a block; needs root."""

    def __init__(self, directory, kilobytes):
        self.directory, self.kilobytes = str(directory).encode(), kilobytes
        self.libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self):
        options = f"size={self.kilobytes}k".encode()
        if not hasattr(self.libc, "mount") or self.libc.mount(b"tmpfs", self.directory, b"tmpfs", 0, options):
            pytest.skip("mounting a small disk needs Linux and root")

    def __exit__(self, *_):
        self.libc.umount2(self.directory, 2)
