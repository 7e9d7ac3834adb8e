"""The paper's method: constitutions, prompts, rounds of critique and revision, the feedback model."""
