"""A round of the supervised stage (paper, section 3.1), as programs that `cai critique` and `cai revise` share.

Each program takes a record and returns it with its round opened or closed. The draws of a round depend only on
(seed, id, round, attempt), so several rounds in one process give the same records as one command per round.
"""

from __future__ import annotations

from dataclasses import dataclass

from cai_cli.data.jsonl import Record, as_object
from cai_cli.data.records import Round, TextMeta, as_messages, current_answer, require_answered
from cai_cli.engines.base import Steps
from cai_cli.method import clean, prompts
from cai_cli.method.clean import Context
from cai_cli.method.constitution import ROUND, Constitution, Principle
from cai_cli.method.prompts import Prompt
from cai_cli.method.tokens import Asker


@dataclass(frozen=True)
class Text:
    """A generated text."""

    text: str
    flags: list[str]
    meta: TextMeta
    reasoning: str | None


class Rounds:
    """Makes rounds with one model and one constitution."""

    def __init__(self, asker: Asker, constitution: Constitution, few_shot: int | None, retry: int, *texts: str) -> None:
        """`few_shot`: how many examples are shown; None for all. `retry`: how often a flagged text may be sampled again.

        InputError unless every principle has each of `texts`.
        """
        constitution.require(*texts)
        self.asker, self.constitution, self.retry = asker, constitution, retry
        self.examples = constitution.examples.critique[:few_shot]

    def draw(self, record: Record) -> Principle:
        """The principle of a record's next round, drawn anew for each round (section 3.1)."""
        return self.constitution.draw(self.asker.seed, ROUND, record["id"], len(record.get("rounds") or []))

    def critique(self, record: Record) -> Steps[Record]:
        """Open a round: draw its principle, and criticise the current answer by that principle (section 3.1)."""
        require_answered(record)
        rounds: list[Round] = record.get("rounds") or []
        principle, shown = self.draw(record), self.asker.shown(record)
        prompt = prompts.critique(shown, principle, self.asker.format, self.examples)
        context = self._context(shown, principle.critique or "")
        found = yield from self._generate(prompt, "critique", record["id"], len(rounds), context)
        opened: Round = {"principle": principle.id, "critique": found.text}
        if found.reasoning:
            opened["reasoning"] = {"critique": found.reasoning}
        opened |= {"flags": found.flags, "meta": {"critique": found.meta}}
        return {**record, "rounds": [*rounds, opened]}

    def revise(self, record: Record) -> Steps[Record]:
        """Close the open round: rewrite the current answer after its critique, by the same principle (section 3.1)."""
        require_answered(record)
        *closed, last = record["rounds"]
        principle = self.constitution.get(last["principle"])
        prompt = prompts.revision(self.asker.shown(record), principle, last["critique"], self.asker.format, self.examples)
        return (yield from self._close(record, closed, last, principle, prompt))

    def direct(self, record: Record) -> Steps[Record]:
        """A whole round without a critique (section 3.5, figure 7)."""
        require_answered(record)
        principle = self.draw(record)
        prompt = prompts.direct_revision(self.asker.shown(record), principle, self.asker.format, self.examples)
        return (yield from self._close(record, record.get("rounds") or [], {"principle": principle.id}, principle, prompt))

    def _close(self, record: Record, closed: list[Round], last: Round, principle: Principle, prompt: Prompt) -> Steps[Record]:
        """Generate the revision of the round `last`, and append that round to the `closed` rounds."""
        context = self._context(self.asker.shown(record), principle.revision or "", last.get("critique", ""))
        found = yield from self._generate(prompt, "revise", record["id"], len(closed), context)
        # the others are moved behind the new text, so that a person reads principle, critique, revision first
        whole = {key: value for key, value in last.items() if key not in ("reasoning", "flags", "meta")}
        whole["revision"] = found.text
        reasons = {**as_object(last.get("reasoning")), **({"revision": found.reasoning} if found.reasoning else {})}
        if reasons:
            whole["reasoning"] = reasons
        merged = {**last.get("meta", {}), "revision": found.meta}
        whole |= {"flags": [*last.get("flags", []), *found.flags], "meta": merged}
        return {**record, "rounds": [*closed, whole]}

    def _context(self, record: Record, request: str, critique: str = "") -> Context:
        prompt = "\n\n".join(message["content"] for message in as_messages(record["prompt"]))
        return Context(current_answer(record), request, prompt, critique, self.examples)

    def _generate(self, prompt: Prompt, step: str, identity: str, round_: int, context: Context) -> Steps[Text]:
        """Sample until an attempt has no flags, or `retry` is used up. Keeps the first attempt with the fewest flags."""
        best: Text | None = None
        for attempt in range(self.retry + 1):
            request = self.asker.request(prompt, step, identity, round_, attempt)
            [done] = yield [request]
            done = self.asker.renderer.separate(request, done)
            text, flags, meta = clean.cleaned(done, "critique" if step == "critique" else "revision", context)
            if best is None or len(flags) < len(best.flags):
                best = Text(text, flags, {**meta, "attempt": attempt} if attempt else meta, done.reasoning)
            if not best.flags:
                break
        assert best is not None
        return best
