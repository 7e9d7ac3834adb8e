"""How RL's reward is shaped, and what it counts in answers."""

from __future__ import annotations

import pytest

from cai_cli.training.shaping import Shaping, boilerplate, is_refusal


def test_the_reward_is_shaped() -> None:
    shaping = Shaping(cap=2.0, length_penalty=0.5, eos_penalty=3.0)
    assert shaping.reward(5.0, "Yes.", 0, True) == 2.0
    assert shaping.reward(1.0, "Yes.", 200, True) == pytest.approx(0.0)
    assert shaping.reward(1.0, "Yes", 0, False) == -2.0
    assert shaping.reward(1.0, " ...", 0, True) == -2.0
    assert Shaping().reward(5.0, "", 1000, False) == 5.0


def test_refusals_and_boilerplate_are_counted() -> None:
    for text in ("I'm sorry, but I can't help.", "I cannot do that.", "As an AI language model, I", "I\u2019m not able to say"):
        assert is_refusal(text), text
    for text in ("Sorry is a hard word to say, says the song.", "You can't park there.", "Use a long pole. " * 20 + "I can't."):
        assert not is_refusal(text), text
    same = "I am a friendly assistant who likes to help you."
    assert boilerplate(["a", "b", "c"], [same, same + " Bye.", "Something else is said here today."]) == pytest.approx(2 / 3)
    assert boilerplate(["a", "a"], [same, same]) == 0  # answers to one prompt may well begin alike
