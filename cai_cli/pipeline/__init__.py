"""The runner of a step: input, output, resume, manifest and random draws."""
