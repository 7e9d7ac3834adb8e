"""What the labels of a run say about their judge: its position bias, and whether it answers with a letter at all."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from statistics import fmean

from cai_cli import streams
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Label

ORDER_DECIDES, ORDER_MATTERS = 0.5, 0.1
"""Shares of pairs whose better answer depends on the order. From the first on, the order decides more often than the answers;
below the second it hardly matters."""
LOW_MASS = 0.01
"""Probability of both letters together below which the judge does not answer with a letter."""


@dataclass
class LabelSummary:
    """Counts over labels. Position bias is how much the position of an answer matters. A `observers.Observer`."""

    differences: array[float] = field(default_factory=lambda: array("d"))
    """Per pair shown in both orders: the probability of its first answer as (A) minus its probability as (B)."""
    flipped: int = 0
    """Pairs whose better answer depends on the order."""
    identical: int = 0
    """Pairs of identical answers."""
    masses: array[float] = field(default_factory=lambda: array("d"))
    """Per label: the probability of both letters together."""
    cut: int = 0
    """Queries without a letter, because --max-tokens cut their reasoning."""
    letters: int = 0
    """Letters that were read: two per query."""
    outside: int = 0
    """Those of them with only an upper bound, because a server shows no more than its most likely tokens."""

    def count(self, record: Record) -> None:
        """Count a record by its `label`."""
        label: Label = record["label"]
        self.identical += bool(label.get("identical"))
        self.cut += label.get("cut", 0)
        self.letters += 2 * (len(label.get("reasoning", ())) or len(label.get("principles", ())) * len(label["orders"]))
        self.outside += label.get("outside", 0)
        if "mass" in label:
            self.masses.append(label["mass"])
        if {"ab", "ba"} <= label["orders"].keys():
            ab, ba = label["orders"]["ab"], label["orders"]["ba"]
            self.differences.append(ab - ba)
            self.flipped += (ab - 0.5) * (ba - 0.5) < 0

    @property
    def low(self) -> int:
        """Labels whose letters hold less than `LOW_MASS` together."""
        return sum(mass < LOW_MASS for mass in self.masses)

    def summary(self) -> Record:
        """What goes into the manifest. What was not measured is absent.

        `position_bias`: `mean_difference` is an answer's probability as (A) minus its probability as (B), 0 for a judge without
        the bias; `flipped` is the share of the pairs whose better answer depends on the order. `letter_mass`: the mean
        probability of both letters together, and the number of labels below 1%. `letters_outside`: how many of the letters have
        only an upper bound.
        """
        found: Record = {"identical": self.identical}
        if count := len(self.differences):
            bias = {"pairs": count, "mean_difference": fmean(self.differences), "flipped": self.flipped / count}
            found["position_bias"] = bias
        if self.masses:
            found["letter_mass"] = {"mean": fmean(self.masses), "low": self.low}
        if self.outside:
            found["letters_outside"] = {"letters": self.outside, "of": self.letters}
        if self.cut:
            found["cut_reasoning"] = self.cut
        return found

    def sentence(self) -> str:
        """The position bias with what it means and what to do, and the identical pairs; empty if there is nothing to report."""
        parts = []
        if self.differences:
            mean, share = fmean(self.differences), self.flipped / len(self.differences)
            side = "A" if mean >= 0 else "B"
            parts.append(f"position bias: {abs(mean):.2f} in favour of ({side}); the order decides {share:.0%} of pairs: ")
            if share >= ORDER_DECIDES:
                parts[0] += "this judge cannot tell them apart, and its labels carry little signal; use a larger judge, "
                parts[0] += "more few-shot examples, or --cot"
            elif share >= ORDER_MATTERS:
                parts[0] += "the mean over both orders removes this bias, so keep --orders both"
            else:
                parts[0] += "the answers decide, not the order"
        if self.identical:
            parts.append(f"{streams.plural(self.identical, 'pair')} of identical answers, labelled 0.5")
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """What is wrong with the labels, and what to do, one sentence each."""
        found, labels = [], streams.plural(len(self.masses), "label")
        if self.low:
            found.append(
                f"in {self.low:,} of {labels} both letters together have under {LOW_MASS:.0%} of the probability: the judge "
                "would not answer with a letter; see its prompt with --dry-run 1, or use another judge"
            )
        if self.outside:
            found.append(
                f"{self.outside:,} of {self.letters:,} letters are outside the most likely tokens, which are all "
                "that the server shows; their upper bound was taken, so these labels are closer to 0.5 than the judge's"
            )
        if self.cut:
            queries = streams.plural(self.cut, "query")
            found.append(f"{queries} without a letter, because --max-tokens cut the reasoning; raise it")
        return found

    def report(self, step: str, quiet: bool) -> None:
        """Print the sentence and the warnings on standard error, for the command `step`."""
        if text := self.sentence():
            streams.say(f"cai {step}: {text}", quiet)
        for warning in self.warnings():
            streams.warn(f"{step}: {warning}")
