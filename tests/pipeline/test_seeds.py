"""Draws are a hash of their parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cai_cli.pipeline import seeds


@given(st.text(), st.integers(0, 9), st.text(), st.integers(0, 9))
def test_draws_depend_on_each_part(a: str, i: int, b: str, j: int) -> None:
    assert (seeds.draw(a, i) == seeds.draw(b, j)) == ((a, i) == (b, j))
    assert 0 <= seeds.draw_uniform(a, i) < 1
