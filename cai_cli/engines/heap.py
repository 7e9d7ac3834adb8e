"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def keep() -> None:
    """On a CPU, keep freed memory for the next steps instead of returning it to the system.

    By default glibc maps memory for every large tensor again, and the page faults cost a quarter of a step. Does nothing with
    other C libraries.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (only glibc has it)
        mmap_max, trim_threshold = -4, -1  # from malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def give_back() -> None:
    """Return memory that `keep` holds and nothing uses: batches of different lengths leave gaps, which add up."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
