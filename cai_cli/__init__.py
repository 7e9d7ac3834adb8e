"""Constitutional AI (Bai et al. 2022, arXiv 2212.08073) as a command-line toolkit, and as functions (`cai_cli.library`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai_cli.library import Records, critique, grade, label, release, revise, sample, score

__version__ = "0.1.0"
__all__ = ["Records", "critique", "grade", "label", "release", "revise", "sample", "score"]


def __getattr__(name: str) -> Any:
    """The functions of the library, which are imported when they are first used."""
    if name in __all__:
        from cai_cli import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
