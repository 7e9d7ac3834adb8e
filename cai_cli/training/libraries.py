"""Keeping the libraries underneath quiet, thrifty, and their errors readable."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cai_cli.errors import CaiError


def calm(debug: bool) -> None:
    """Keep the libraries' progress bars and warnings off the terminal, unless for debugging."""
    if debug:
        return
    import logging
    import warnings

    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("trl", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def keep_memory() -> None:
    """On a CPU, keep freed memory for the next steps in place of giving it back and asking for it again.

    glibc maps every large tensor anew, and the page faults cost a quarter of a step. Other C libraries are left alone.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        mmap_max, trim_threshold = -4, -1  # of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def give_back_memory() -> None:
    """Return what `keep_memory` holds and nothing uses: batches of ever other lengths leave ever other gaps, which add up."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Weights that can't be loaded, as one sentence. transformers, torch and safetensors each raise kinds of their own."""
    try:
        yield
    except CaiError:
        raise
    except Exception as problem:
        raise CaiError(f"{folder}: the model can't be loaded ({' '.join(str(problem).split())[:300]})") from problem
