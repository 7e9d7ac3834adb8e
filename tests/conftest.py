"""Fixtures that every test shares: tiny models, made once a session."""

from __future__ import annotations

import pytest

from tests import tiny as make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny causal model's directory."""
    return make.tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_pm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny preference model's directory."""
    return make.tiny_pm(tmp_path_factory.mktemp("models") / "tiny-pm")
