"""Generate new prompts similar to those of a file, with few-shot examples.

    cai prompts red-team.jsonl -n 500 -m MODEL -o more-red-team.jsonl

Paper, section 3.2: a model wrote 140,335 of the 182,831 red-team prompts, after few-shot examples. Here each
request shows five seeds (prompts of the file), drawn from (seed, number). Only single-turn prompts are seeds.
Departures from the paper: a new prompt that is empty, cut, or nearly the same as a seed or an earlier prompt
is skipped, and written to OUT.skipped.jsonl.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Annotated

from typer import Option

from cai_cli import streams
from cai_cli.commands._command import command
from cai_cli.commands._flags import IO, Model, Prompting, Sampling
from cai_cli.commands._session import Session
from cai_cli.data.ids import read_with_ids
from cai_cli.data.jsonl import Line, Record, encode
from cai_cli.data.records import as_messages, digest, prompt_error
from cai_cli.engines.base import Steps
from cai_cli.errors import InputError
from cai_cli.method import clean, prompts
from cai_cli.pipeline import stage
from cai_cli.pipeline.seeds import draw

SHOWN = 5
"""Seeds per request."""
SAME = 85.0
"""Two prompts are nearly the same if at least this percentage of their words is in both, in the same order."""
ATTEMPTS = 10
"""Most requests made per prompt that is asked for."""
_BULLET = re.compile(r"(?:[-*•]\s+|\d+[.)]\s+)?(?:(?:Message|Human|User):\s*)?")


class NoveltyFilter:
    """Keeps only new prompts, until there are enough. See `observers.Filter`."""

    def __init__(self, seeds: list[str], wanted: int) -> None:
        from cai_cli.data.duplicates import NearDuplicates  # needs numpy, for which --help would wait

        self.seen, self.wanted, self.kept = NearDuplicates(SAME), wanted, 0
        for seed in seeds:
            self.seen.add(clean.words(seed))

    @property
    def full(self) -> bool:
        """Whether there are as many as asked for."""
        return self.kept >= self.wanted

    def reason(self, record: Record) -> str | None:
        """Why a prompt is skipped, such as the one that it is nearly the same as; None if it is new, and then it is kept."""
        words = clean.words(record["prompt"])
        if record.get("meta", {}).get("prompt", {}).get("finish") == "length":
            return "cut off at --max-tokens"
        if not words:
            return "empty"
        if found := self.seen.find(words):
            return f"nearly the same as: {found[:200]}"
        self.seen.add(words)
        self.kept += 1
        return None

    def summary(self) -> Record:
        """How many prompts are new."""
        return {"kept": self.kept}


def tidy(text: str) -> str:
    """A generated prompt without what models put around one: only the first paragraph, no bullet, no quotes."""
    first, *rest = [part.strip() for part in text.strip().split("\n\n")]
    first = rest[0] if rest and first.endswith(":") else first  # "Here is another message:"
    return clean.unquoted(_BULLET.sub("", first).strip())


@command(
    "Generate new prompts similar to those of a file, with few-shot examples; near-duplicates are skipped.",
    "cai prompts examples/red-team.jsonl -n 100 -m models/SmolLM2-135M-Instruct -o more.jsonl",
)
def app(
    files: IO,
    model: Model,
    sampling: Sampling,
    prompting: Prompting,
    n: Annotated[int, Option("-n", min=1, help="Number of new prompts.")] = 100,
) -> None:
    """Generate prompts."""
    session = Session(files, model, sampling, prompting)
    seeds: list[tuple[str, str]] = []
    kinds: set[str] = set()
    for record in read_with_ids(files.input, files.limit, prompt_error):
        kinds.add(str(record.get("kind", "")))
        if len(messages := as_messages(record["prompt"])) == 1:
            seeds.append((record["id"], messages[0]["content"]))
    if len(seeds) < SHOWN:
        raise InputError(
            f"{files.input}: has {streams.plural(len(seeds), 'single-turn prompt')}; give at least {SHOWN} to show to the model"
        )
    kind = {"kind": kinds.pop()} if len(kinds) == 1 and "" not in kinds else {}
    s, source = sampling.seed, digest(seeds)
    novelty = NoveltyFilter([text for _, text in seeds], n)

    def lines() -> Iterator[Line]:
        for number in range(n * ATTEMPTS):
            record = {"id": f"new-{source[:6]}-{s}-{number}", **kind}
            yield Line(number + 1, encode(record), record)

    def program(record: Record) -> Steps[list[Record]]:
        shown = random.Random(draw(s, "seeds", record["id"])).sample(seeds, SHOWN)
        prompt = prompts.new_prompt([text for _, text in shown], session.format)
        request = session.request(prompt, "prompts", record["id"])
        [done] = yield [request]
        done = session.renderer.separate(request, done)
        return [{**record, "prompt": tidy(done.text), "seeds": [i for i, _ in shown], "meta": {"prompt": done.meta()}}]

    files.limit = None  # it limits the seeds, not the requests
    window = min(n, stage.WINDOW)  # records in flight are lost once there are enough, so keep few
    session.run("prompts", lambda record: None, program, lines=lines, only=novelty, window=window, n=n, seeds=source)
    if 0 < novelty.kept < n and files.dry_run is None:
        streams.warn(
            f"prompts: only {novelty.kept} of {n} are new after {n * ATTEMPTS} attempts; give more seeds, or another model"
        )
