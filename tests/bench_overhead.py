"""What our own code costs: each step with an engine that answers at once. `make overhead`.

    python tests/bench_overhead.py [RECORDS ...]

For every number of records and every step a process of its own runs the real command on one core, with a tiny tokenizer and an
engine that takes no time. Prints records per second, also without the time that the tokenizer and the template take, the most
memory, and how long the same command takes to continue a run of which one record is missing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cai_cli.engines.base import Choice, Completion, Feed, Key, Request, Result, Score

WORDS = [
    "Please",
    "tell",
    "me",
    "in",
    "a",
    "few",
    "words",
    "what",
    "the",
    "capital",
    "of",
    "France",
    "is",
    "and",
    "why",
    "it",
    "is",
    "worth",
    "a",
    "visit",
    "in",
    "spring",
]
ANSWER = "I can tell you a little about that. " * 4


class Instant:
    """An engine that answers at once."""

    context = 4096

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each result when its request arrives."""
        for entry in feed:
            if entry is not None:
                yield entry[0], _answer(entry[1])


def _answer(request: Request) -> Result:
    if request.kind == "generate":
        return Completion(ANSWER, "stop", request.seed, len(request.ids), 40, tokens=range(40))
    if request.kind == "choose":
        return Choice(dict.fromkeys(request.options or {}, -0.7), len(request.ids))
    return Score(0.5, len(request.ids))


def write(path: Path, count: int) -> None:
    """Records that every step takes: each has a prompt, a response, two responses, and for `revise` an open round."""
    open_round = [{"principle": "harm-1", "critique": ANSWER}]
    with path.open("w") as stream:
        for number in range(count):
            record: dict[str, Any] = {"id": f"q{number}", "prompt": " ".join(WORDS[number % 5 :])}
            record |= {"response": ANSWER, "responses": [ANSWER, ANSWER[8:]]}
            stream.write(json.dumps(record | ({"rounds": open_round} if path.stem == "revise" else {})) + "\n")


def one(step: str, folder: Path, out: Path) -> dict[str, float]:
    """Run a step in this process, and then continue it without its last record."""
    os.environ |= {"CAI_NO_CACHE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.sched_setaffinity(0, {0})
    from cai_cli.engines import select
    from cai_cli.main import app

    select.Setup.open = lambda _: Instant()  # type: ignore[method-assign, assignment]
    model = folder / ("pm" if step == "score" else "lm")
    source = folder / ("revise.jsonl" if step == "revise" else "all.jsonl")
    command = [step, str(source), "-m", str(model), "--engine", "transformers", "--quiet", "-o", str(out)]

    def run() -> float:
        before = time.perf_counter()
        try:
            app(command, standalone_mode=False)
        except SystemExit as problem:
            if problem.code:
                raise RuntimeError(f"cai {step} ended with {problem.code}") from None
        return time.perf_counter() - before

    if os.environ.get("PROFILE"):
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    seconds = run() if not os.environ.get("PROFILE") else 0
    return {"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    from tests.tiny import tiny_model  # noqa: F401

    print(one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
