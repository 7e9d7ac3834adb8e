"""Evaluation: what the models do, measured, with intervals."""
