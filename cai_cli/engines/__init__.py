"""Engines: what turns requests into completions, option probabilities and scores."""
