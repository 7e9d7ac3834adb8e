"""The draws in vLLM's batch: whatever moves in it, each request draws its own tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from cai_cli.engines.draws import ARGUMENT, pick

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("needs_vllm")]
VOCABULARY = 50


def params(seed: int, heat: float = 1.0, top_p: float = 1.0) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, extra_args={ARGUMENT: [seed, heat, top_p]})


@pytest.mark.parametrize("seed", range(20))
def test_requests_that_leave_join_and_move_keep_their_draws(seed: int) -> None:
    """Requests that draw, at several temperatures, and some that do not; a preempted one comes back with its tokens."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from cai_cli.engines.vllm_draws import Draws

    draw, draws = random.Random(seed), Draws(None, torch.device("cpu"), False)
    batch: dict[int, tuple[Any, list[int]]] = {}
    for number in range(60):
        removed = draw.sample(sorted(batch), draw.randint(0, len(batch) // 2))
        for row in removed:
            del batch[row]
        added: list[Any] = []
        for _ in range(draw.randint(0, 3)):
            given = params(number, draw.choice((0.5, 1.0)), draw.choice((0.7, 1.0))) if draw.random() < 0.8 else SamplingParams()
            row = draw.choice([*removed, len(batch) + len(added) + 10])
            tokens = [1] * draw.choice((0, 0, 5))
            added.append((row, given, [1, 2], tokens))
            batch[row] = given, tokens
        moved = []
        for one in draw.sample(sorted(batch), min(2, len(batch))):
            other, swap = draw.randint(0, 12), draw.random() < 0.5
            if one != other and one in batch:
                first, second = batch.pop(one), batch.pop(other, None)
                batch[other] = first
                if swap and second:
                    batch[one] = second
                moved.append((one, other, MoveDirectionality.SWAP if swap else MoveDirectionality.UNIDIRECTIONAL))
        draws.update_state(BatchUpdate(len(batch), removed, added, moved) if removed or added or moved else None)
        logits = torch.randn(max([*batch, 0]) + 1, VOCABULARY, generator=torch.Generator().manual_seed(number))
        got = draws.apply(logits.clone()).argmax(-1).tolist()
        for row, (given, tokens) in batch.items():
            settings = next(iter((given.extra_args or {}).values()), None)
            expected = pick(logits[[row]], [tuple(settings)], [len(tokens)]) if settings else logits[row].argmax()
            assert got[row] == int(expected)
            tokens.append(got[row])


@pytest.mark.parametrize("given", ["?", [1], [-1, 1.0, 1.0], [2**64, 1.0, 1.0], [1, 0.0, 1.0], [1, 1.0, 0.0], [1, 1.0, 1.1]])
def test_other_arguments_are_refused(given: Any) -> None:
    """So a server answers 400, and a client finds out that its draws are loaded."""
    from vllm import SamplingParams

    from cai_cli.engines.vllm_draws import Draws

    Draws.validate_params(SamplingParams())
    Draws.validate_params(params(2**64 - 1))
    with pytest.raises(ValueError, match=ARGUMENT):
        Draws.validate_params(SamplingParams(extra_args={ARGUMENT: given}))
