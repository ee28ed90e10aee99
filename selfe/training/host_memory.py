"""Keeps memory that freed host tensors leave behind, instead of returning it to the system."""

from __future__ import annotations

import ctypes

GLIBC_OPTIONS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: free memory at the end that is never given back
    -2: 2**26,  # M_TOP_PAD: what the heap grows by
    -3: 2**25,  # M_MMAP_THRESHOLD, the largest it takes: from here on blocks are the system's own
}


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory. Returns whether it does.

    glibc gives large blocks back to the system, which hands out new pages for the next tensor,
    zeroed one by one: 14,000 in an iteration of the shapes recipe, and hardly any once it is told
    not to. Other libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(option, value) for option, value in GLIBC_OPTIONS.items()])
