"""What our own code costs: each step with an engine that answers at once. `make overhead`.

    python tests/bench_overhead.py [RECORDS ...]

For every number of records and every step, a process of its own runs the real command on one core, with a tiny model's tokenizer and
an engine that takes no time. The run is interrupted before its last record and then continued. Prints the records per second,
the same without the time inside the libraries that render and tokenise, the memory that the records took, and how many seconds
after its start the continued run asked the engine. With CAI_PROFILE=1 it prints where the time went. CAI_PLOT=FILE.png draws the seconds over the records.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cai_cli.engines.base import Choice, Completion, Feed, Key, Request, Result, Score

STEPS = ("sample", "critique", "revise", "label", "score")
SENTENCE = "please tell me in a few words what the capital of France is and why it is worth a visit in the spring of the year"
WORDS = SENTENCE.split()
ANSWER = "I can tell you a little about that, but not everything that you may want to know. " * 3


class Instant:
    """An engine that answers at once, with texts that differ, until it is interrupted."""

    context = 4096
    left: float = float("inf")
    """Interrupts the run after so many results."""
    asked = 0.0
    """When the first request came."""

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each result when its request arrives."""
        for entry in feed:
            if entry is not None:
                Instant.asked = Instant.asked or time.perf_counter()
                Instant.left -= 1
                if Instant.left < 0:
                    raise KeyboardInterrupt
                yield entry[0], _answer(entry[1])


def _answer(request: Request) -> Result:
    if request.kind == "generate":
        return Completion(f"{ANSWER}{request.seed}", "stop", request.seed, len(request.ids), 50)
    if request.kind == "choose":
        return Choice(dict.fromkeys(request.options or {}, -0.7), len(request.ids))
    return Score(0.5, len(request.ids))


def write(path: Path, step: str, count: int) -> None:
    """The records of a step: prompts of 5 to 25 words, answers of 50."""
    with path.open("w") as stream:
        for number in range(count):
            record: dict[str, Any] = {"id": f"q{number}", "prompt": f"{number} {' '.join(WORDS[number % 20 :])}"}
            if step == "label":
                record["responses"] = [f"{ANSWER}{number}", f"{number} {ANSWER}"]
            elif step != "sample":
                record["response"] = f"{ANSWER}{number}"
            if step == "revise":
                record["rounds"] = [{"principle": "ethics", "critique": f"{ANSWER}{number}"}]
            stream.write(json.dumps(record) + "\n")


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Add the time that a method takes to `spent`."""
    method = getattr(owner, name)

    def measured(*args: Any, **more: Any) -> Any:
        before = time.perf_counter()
        try:
            return method(*args, **more)
        finally:
            spent[0] += time.perf_counter() - before

    setattr(owner, name, measured)


def cai(*command: object) -> float:
    """The seconds that a command takes in this process."""
    from cai_cli.main import main as command_line

    before, sys.argv = time.perf_counter(), ["cai", *map(str, command), "--engine", "transformers", "--quiet"]
    try:
        command_line()
    except SystemExit as problem:
        if problem.code not in (0, 130):
            raise RuntimeError(f"cai {command[0]} ended with {problem.code}") from None
    return time.perf_counter() - before


def one(step: str, count: int) -> dict[str, float]:
    """Run a step in this process."""
    os.environ |= {"CAI_NO_CACHE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from transformers import PreTrainedTokenizerBase

    from cai_cli.engines import select
    from cai_cli.method.tokens import Renderer
    from tests.tiny import tiny_model, tiny_pm

    select.Setup.open = lambda _: Instant()  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        (tiny_pm if step == "score" else tiny_model)(folder / "model")
        write(folder / "few.jsonl", step, 8)
        write(folder / "in.jsonl", step, count)
        cai(step, folder / "few.jsonl", "-m", folder / "model", "-o", folder / "few")  # imports, and loads the tokenizer
        spent = [0.0]
        timed(Renderer, "_tokenised", spent)
        timed(PreTrainedTokenizerBase, "apply_chat_template", spent)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Instant.left = (count - 1) * (2 if step == "label" else 1)
        command = (step, folder / "in.jsonl", "-m", folder / "model", "-o", folder / "out")
        seconds = profiled(lambda: cai(*command))
        libraries, Instant.left = spent[0], float("inf")
        Instant.asked = 0.0
        started = time.perf_counter()
        cai(*command)
        with (folder / "out").open("rb") as stream:
            lines = sum(1 for _ in stream)
        assert lines == count, lines
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "libraries": libraries, "again": Instant.asked - started, "mib": memory}


def profiled(run: Callable[[], float]) -> float:
    """The seconds of a run. With CAI_PROFILE it prints where they went."""
    if not os.environ.get("CAI_PROFILE"):
        return run()
    import cProfile
    import pstats

    profile = cProfile.Profile()
    seconds: float = profile.runcall(run)
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    return seconds


def plot(path: str, seconds: dict[str, dict[int, float]]) -> None:
    """Draw the seconds over the records."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for step, points in seconds.items():
        axes.plot(list(points), list(points.values()), marker="o", label=f"cai {step}")
    axes.set(xscale="log", yscale="log", xlabel="records", ylabel="seconds, with an engine that answers at once")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(counts: list[int]) -> None:
    """Print a line per step and number of records."""
    print(f"{'':10} {'records':>10} {'records/s':>10} {'own code':>10} {'MiB':>6} {'continued':>10}")
    seconds: dict[str, dict[int, float]] = {step: {} for step in STEPS}
    for step in STEPS:
        for count in counts:
            command = [sys.executable, __file__, step, str(count)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            seconds[step][count] = found["seconds"]
            rates = count / found["seconds"], count / (found["seconds"] - found["libraries"])
            rest = f"{found['mib']:6.0f} {found['again']:8.1f} s"
            print(f"{step:10} {count:10,} {rates[0]:10,.0f} {rates[1]:10,.0f} {rest}", flush=True)
    if path := os.environ.get("CAI_PLOT"):
        plot(path, seconds)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in STEPS:
        shown = os.fdopen(os.dup(1), "w")  # the command claims descriptor 1
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))), file=shown, flush=True)
    else:
        main([int(text) for text in sys.argv[1:]] or [2_000, 20_000, 200_000])
