"""A round of the supervised stage, as programs that `cai critique` and `cai revise` share.

Each takes a record and returns it with its round opened or closed. What a round draws comes from
(seed, step, id, round, attempt) alone, so several rounds in one process equal chained commands.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cai_cli import clean, prompts
from cai_cli.clean import Context
from cai_cli.commands.session import Session
from cai_cli.constitution import Constitution, Principle
from cai_cli.errors import InputError
from cai_cli.jsonl import Record
from cai_cli.prompts import Prompt
from cai_cli.records import as_messages, current_answer

Steps = Generator[list[Any], list[Any], Record]


class Rounds:
    """How rounds are made: the model's session, the constitution, and how often a flagged text is sampled again."""

    def __init__(self, session: Session, constitution: Constitution, few_shot: int | None, retry: int, *texts: str) -> None:
        """`few_shot`: examples shown, None for all. InputError unless every principle has each of `texts`."""
        constitution.require(*texts)
        if retry and not session.sampling.temperature:
            raise InputError("--retry with --temperature 0 would give the same text again; give a higher temperature")
        self.session, self.constitution, self.retry = session, constitution, retry
        self.examples = constitution.examples.critique[:few_shot]

    def draw(self, record: Record) -> Principle:
        """The principle of a record's next round."""
        return self.constitution.draw(self.session.sampling.seed, record["id"], len(record.get("rounds") or []))

    def critique(self, record: Record) -> Steps:
        """Open a round: draw its principle, and criticise the current answer by it."""
        rounds = record.get("rounds") or []
        principle = self.draw(record)
        prompt = prompts.critique(record, principle, self.session.format, self.examples)
        context = self._context(record, principle.critique or "")
        text, flags, meta = yield from self._generate(prompt, "critique", record["id"], len(rounds), context)
        entry = {"principle": principle.id, "critique": text, "flags": flags, "meta": {"critique": meta}}
        return {**record, "rounds": [*rounds, entry]}

    def revise(self, record: Record) -> Steps:
        """Close the open round: rewrite the current answer after its critique."""
        *closed, last = record["rounds"]
        principle = self.constitution.get(last["principle"])
        prompt = prompts.revision(record, principle, last["critique"], self.session.format, self.examples)
        context = self._context(record, principle.revision or "", last["critique"])
        text, flags, meta = yield from self._generate(prompt, "revise", record["id"], len(closed), context)
        return {**record, "rounds": [*closed, self._closed(last, text, flags, meta)]}

    def direct(self, record: Record) -> Steps:
        """A whole round without a critique (paper, figure 7)."""
        rounds = record.get("rounds") or []
        principle = self.draw(record)
        prompt = prompts.direct_revision(record, principle, self.session.format, self.examples)
        context = self._context(record, principle.revision or "")
        text, flags, meta = yield from self._generate(prompt, "revise", record["id"], len(rounds), context)
        return {**record, "rounds": [*rounds, self._closed({"principle": principle.id}, text, flags, meta)]}

    def _closed(self, entry: Record, text: str, flags: list[str], meta: Record) -> Record:
        """A round with its revision, before `flags` and `meta`, which stand last."""
        before = {key: value for key, value in entry.items() if key not in ("flags", "meta")}
        merged = {**entry.get("meta", {}), "revision": meta}
        return {**before, "revision": text, "flags": [*entry.get("flags", []), *flags], "meta": merged}

    def _context(self, record: Record, request: str, critique: str = "") -> Context:
        prompt = "\n\n".join(message["content"] for message in as_messages(record["prompt"]))
        return Context(current_answer(record), request, prompt, critique, self.examples)

    def _generate(
        self, prompt: Prompt, step: str, identity: str, round_: int, context: Context
    ) -> Generator[list[Any], list[Any], tuple[str, list[str], Record]]:
        """(text, flags, meta) of the first attempt without flags, else of the first with the fewest."""
        best: tuple[str, list[str], Record] | None = None
        for attempt in range(self.retry + 1):
            [done] = yield [self.session.request(prompt, step, identity, round_, attempt)]
            text, flags, meta = clean.cleaned(done, "critique" if step == "critique" else "revision", context)
            if best is None or len(flags) < len(best[1]):
                best = text, flags, {**meta, "attempt": attempt} if attempt else meta
            if not best[1]:
                break
        assert best is not None
        return best
