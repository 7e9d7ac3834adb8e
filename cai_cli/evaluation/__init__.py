"""Evaluation: measures of what models do, with intervals."""
