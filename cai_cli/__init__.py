"""Constitutional AI (Bai et al. 2022, arXiv 2212.08073) as a command-line toolkit."""

__version__ = "0.1.0"
