"""Make new prompts like those that you have, by few-shot generation.

    cai prompts red-team.jsonl -n 500 -m MODEL -o more-red-team.jsonl

Paper, section 3.2: 140,335 of its 182,831 red-team prompts were written by a model that was shown some of the
others. Each request shows five seeds, drawn from (seed, number); what is empty, cut off, or nearly the same as
a seed or an earlier prompt is set aside in OUT.rejected.jsonl. Only single-turn prompts serve as seeds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterator
from typing import Annotated, Any

from rapidfuzz import fuzz, process
from typer import Option

from cai_cli import clean, prompts, stage, streams
from cai_cli.commands.options import IO, Model, Sampling, command
from cai_cli.commands.session import Session
from cai_cli.errors import InputError, SetAside
from cai_cli.jsonl import Line, Record, encode
from cai_cli.records import as_messages, digest, prompt_error, read_with_ids
from cai_cli.seeds import draw

SHOWN = 5
"""Seeds that a request shows."""
SAME = 85.0
"""Share of two prompts' words, in per cent, that stand in both in the same order, from which they count as nearly the same."""
ATTEMPTS = 10
"""Requests made at most for each prompt that is asked for."""


_LEAD = re.compile(r"(?:[-*•]\s+|\d+[.)]\s+)?(?:(?:Message|Human|User):\s*)?")


class Fresh:
    """Keeps prompts that are new, until there are enough. See `stage.Observer`."""

    def __init__(self, seeds: list[str], wanted: int) -> None:
        self.seen, self.wanted, self.kept = [clean.words(seed) for seed in seeds], wanted, 0

    @property
    def full(self) -> bool:
        """Whether there are as many as are wanted."""
        return self.kept >= self.wanted

    def reason(self, record: Record) -> str | None:
        """What a new prompt is nearly the same as; None for one that is new, which is kept."""
        words = clean.words(record["prompt"])
        if found := process.extractOne(words, self.seen, scorer=fuzz.ratio, score_cutoff=SAME):
            return f"nearly the same as: {' '.join(found[0])[:200]}"
        self.seen.append(words)
        self.kept += 1
        return None

    def summary(self) -> Record:
        """How many are new."""
        return {"kept": self.kept}


def tidy(text: str) -> str:
    """A generated prompt without the marks that models put around one: its first paragraph, no bullet, no quotes."""
    first, *rest = [part.strip() for part in text.strip().split("\n\n")]
    first = rest[0] if rest and first.endswith(":") else first  # "Here is another message:"
    first = _LEAD.sub("", first).strip()
    quoted = len(first) > 2 and first[0] + first[-1] in ('""', "“”") and not set(first[1:-1]) & set('"“”')
    return first[1:-1].strip() if quoted else first


@command(
    "Make new prompts like those of a file, by few-shot generation; near-duplicates are set aside.",
    "cai prompts examples/red-team.jsonl -n 100 -m models/SmolLM2-135M-Instruct -o more.jsonl",
)
def app(
    files: IO, model: Model, sampling: Sampling, n: Annotated[int, Option("-n", min=1, help="New prompts that are wanted.")] = 100
) -> None:
    """Make prompts."""
    session = Session(files, model, sampling)
    records = list(read_with_ids(files.input, files.limit, prompt_error))
    seeds = [(r["id"], as_messages(r["prompt"])[0]["content"]) for r in records if len(as_messages(r["prompt"])) == 1]
    if len(seeds) < SHOWN:
        raise InputError(f"{files.input}: {len(seeds)} single-turn prompts; give at least {SHOWN} to show the model")
    kinds = {str(record.get("kind", "")) for record in records}
    kind = {"kind": kinds.pop()} if len(kinds) == 1 and "" not in kinds else {}
    s, source = sampling.seed, digest(seeds)
    fresh = Fresh([text for _, text in seeds], n)

    def lines() -> Iterator[Line]:
        for number in range(n * ATTEMPTS):
            record = {"id": f"new-{source[:6]}-{s}-{number}", **kind}
            yield Line(number + 1, encode(record), record)

    def program(record: Record) -> Generator[list[Any], list[Any], list[Record]]:
        shown = random.Random(draw(s, "seeds", record["id"])).sample(seeds, SHOWN)
        prompt = prompts.new_prompt([text for _, text in shown], session.format)
        [done] = yield [session.request(prompt, "prompts", record["id"])]
        text = tidy(done.text)
        if done.finish == "length" or not clean.words(text):
            raise SetAside("empty" if done.finish != "length" else "cut off at --max-tokens")
        return [{**record, "prompt": text, "seeds": [i for i, _ in shown], "meta": {"prompt": done.meta()}}]

    files.limit = None  # it was of the seeds
    window = min(n, stage.WINDOW)  # what is in flight when there are enough is lost
    session.run("prompts", lambda record: None, program, lines=lines, observer=fresh, window=window, n=n, seeds=source)
    if fresh.kept < n and files.dry_run is None:
        streams.warn(
            f"prompts: only {fresh.kept} of {n} are new after {n * ATTEMPTS} attempts; give more seeds, or another model"
        )
