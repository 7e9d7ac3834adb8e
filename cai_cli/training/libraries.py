"""Keep the libraries under `cai` quiet."""

from __future__ import annotations


def calm(debug: bool) -> None:
    """Turn off the libraries' progress bars and warnings, unless `debug`."""
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
