"""The progress callback of a run: the display, `metrics.jsonl`, and when to save a checkpoint, evaluate and stop."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cai_cli import streams
from cai_cli.engines import heap, models
from cai_cli.training import ranks
from cai_cli.training.interrupts import Interrupts
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace

EVERY = 10
"""Steps between progress lines without a terminal; on a CPU also between returns of memory to the system."""
SAVE_SECONDS = 120.0
"""Without --save-every, a checkpoint is written when this much time has passed since the last, but see SAVE_SHARE."""
SAVE_SHARE = 0.1
"""Highest share of the run's time for checkpoints. The first one, whose time is not known before, may exceed it."""
NO_SIGNAL_ROW, NO_SIGNAL_STEPS, NO_SIGNAL_SHARE = 3, 10, 0.5
"""RL warns when no prompt of so many steps in a row gives a signal, or more than this share over this many steps gives none."""
EVAL_SHARE = 0.2
"""Highest share of the run's time for evaluations."""
NAMES = {
    "completions/mean_length": "length",
    "mean_token_accuracy": "token_accuracy",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
}
"""TRL's names and ours."""
KEPT = {
    *NAMES.values(), "loss", "learning_rate", "grad_norm", "epoch", "entropy", "accuracy", "margin",
    "reward", "reward_std", "kl", "score", "unfinished", "refusals", "boilerplate", "empty", "no_signal",
    "feedback_tokens",
}  # fmt: skip
"""The names in `metrics.jsonl`, of all that TRL logs; each may also occur with `eval_` before it."""


def checkpoint_is_due(since: float, passed: float, saving: float, last: float) -> bool:
    """Whether to write a checkpoint, if --save-every does not say when. All in seconds.

    `since`: since the last one. `passed`: since the start. `saving`: what all took so far. `last`: what the last one took.
    """
    return since > SAVE_SECONDS and saving + last <= SAVE_SHARE * passed


class ProgressCallback(TrainerCallback):
    """Follows a run step by step. A step's line is written once its evaluation, if any, has been added."""

    def __init__(
        self,
        trainer: Any,
        settings: Settings,
        workspace: Workspace,
        interrupts: Interrupts,
        rows: int | None = None,
        max_kl: float | None = None,
        stop_on_kl: bool = False,
    ) -> None:
        """`rows`: examples in one pass over the data, if the trainer's own count differs.

        Warns at the first step whose mean KL per token exceeds `max_kl`; with `stop_on_kl` the run stops there.
        """
        self.rows, self.max_kl, self.stop_on_kl = rows, max_kl, stop_on_kl
        self.begun, self.interrupted, self.stopped, self.warned = False, False, "", False
        self.no_signal: deque[float] | None = deque(maxlen=NO_SIGNAL_STEPS)  # None once its warning is printed
        self.settings, self.workspace, self.interrupts = settings, workspace, interrupts
        self.eval_rows = 0 if trainer.eval_dataset is None else len(trainer.eval_dataset)
        self.metrics = workspace.log("metrics.jsonl")
        self.line: dict[str, float | None] = {}
        self.tokens = int(self.metrics.last.get("tokens", 0))
        self.seconds_before = float(self.metrics.last.get("seconds", 0.0))
        self.progress: streams.Progress | None = None
        self.saving, self.last_save = 0.0, 0.0
        """Seconds that all checkpoints took so far, and the last one."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock and the progress display."""
        self.begun = True
        self.saved = time.monotonic()
        self.seen = state.num_input_tokens_seen
        self.start = self.busy = time.monotonic()
        self.first = state.global_step
        self.progress = streams.Progress(f"cai {self.settings.step}", state.max_steps, self.settings.quiet)
        self.progress.advance(state.global_step, 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Decide whether to evaluate, save and stop."""
        self.busy = time.monotonic()
        last = state.global_step >= state.max_steps
        if models.device() == "cpu" and state.global_step % EVERY == 0:
            heap.give_back()
        control.should_evaluate = self.eval_rows > 0 and (last or state.global_step % self._eval_every(state.max_steps) == 0)
        due = self._save_is_due(state.global_step, time.monotonic())
        # all processes must decide the same, or they would wait for each other
        due, stopping = ranks.any_of(due, self.interrupts.asked)
        self.interrupted = stopping
        control.should_save = not last and (stopping or due)  # after the last step the model itself is saved
        control.should_training_stop = control.should_training_stop or stopping

    def _save_is_due(self, step: int, now: float) -> bool:
        """Whether a checkpoint is written after this step: by --save-every, or if enough time has passed."""
        if every := self.settings.save_every:
            return step % every == 0
        return checkpoint_is_due(now - self.saved, now - self.start, self.saving, self.last_save)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the evaluation's time out of the tokens per second and of the time left."""
        if self.progress:
            self.progress.start += time.monotonic() - self.busy
        self.busy = time.monotonic()

    def _eval_every(self, steps: int) -> int:
        """Steps between evaluations: ten per run, or fewer so that they take at most EVAL_SHARE of the time."""
        # in steps: a step also has a backward pass; in RL most of a step is generation, which an evaluation does too
        costs = self.eval_rows / self.settings.per_step() / (1 if self.settings.step == "rl" else 3)
        return max(1, steps // 10, math.ceil(costs / EVAL_SHARE))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add what was logged to the step's line."""
        logs = dict(logs or {})
        if "train_runtime" in logs:  # the trainer's summary at the end; the manifest has its own
            return
        if self.line.get("step") != state.global_step:
            self.flush()
            self.line = {"step": state.global_step}
        for name, value in logs.items():
            prefix = "eval_" if name.startswith("eval_") else ""
            name = prefix + NAMES.get(name.removeprefix(prefix), name.removeprefix(prefix))
            if name == "epoch" and self.rows:  # TRL takes the whole run for one pass
                value = state.global_step * self.settings.per_step() / self.rows
            if (plain := name.removeprefix(prefix)) in KEPT or plain.startswith("principle/"):
                bad = isinstance(value, float) and not math.isfinite(value)
                self.line[name] = None if bad else round(value, 8) if isinstance(value, float) else value
        if "loss" not in logs:
            return
        self._check_kl(state, control)
        self._check_signal(state)
        new = max(0, int(logs.get("num_tokens", self.seen)) - self.seen)
        self.seen += new
        self.tokens += new
        self.line |= {"tokens": self.tokens, "seconds": round(self.seconds_before + time.monotonic() - self.start, 3)}
        self._show(state, new)

    def _check_kl(self, state: TrainerState, control: TrainerControl) -> None:
        """Warn or stop if the step's KL exceeds --max-kl."""
        kl = self.line.get("kl")
        if self.max_kl is None or kl is None or kl <= self.max_kl:
            return
        if self.stop_on_kl:
            self.stopped = f"step {state.global_step}: KL {kl:.3f} per token, above --max-kl {self.max_kl:g}"
            control.should_training_stop = True
            control.should_evaluate = self.eval_rows > 0
        elif not self.warned:
            streams.warn(
                f"step {state.global_step}: KL {kl:.3f} per token, above --max-kl {self.max_kl:g}: far from the starting model; "
                "read samples.jsonl, and consider a smaller --lr or a larger --kl-coef (warned once)"
            )
            self.warned = True

    def _check_signal(self, state: TrainerState) -> None:
        """Warn if too few prompts of the last steps give a signal."""
        share = self.line.get("no_signal")
        if share is None or self.no_signal is None:
            return
        self.no_signal.append(share)
        shares = list(self.no_signal)
        mean = sum(shares) / len(shares)
        none = len(shares) >= NO_SIGNAL_ROW and min(shares[-NO_SIGNAL_ROW:]) == 1.0
        if none or (len(shares) == NO_SIGNAL_STEPS and mean > NO_SIGNAL_SHARE):
            streams.warn(
                f"step {state.global_step}: for {mean:.0%} of the last prompts all answers have the same reward, "
                "so these prompts train nothing; read samples.jsonl, and consider a higher --temperature or --num-generations, "
                "other prompts, a higher --reward-cap, or another --pm (warned once)"
            )
            self.no_signal = None

    def _show(self, state: TrainerState, tokens: int) -> None:
        """Show the step on the progress bar, or without a terminal every EVERY steps as a line."""
        assert self.progress is not None
        loss = self.line.get("loss")
        figures = [f"loss {loss:.4f}"] if loss is not None else ["loss is not a number"]
        figures += [f"{name} {self.line[name]:.3f}" for name in ("accuracy", "reward", "kl") if self.line.get(name) is not None]
        if share := self.line.get("no_signal"):
            figures.append(f"no signal {share:.0%}")
        quiet, self.progress.quiet = self.progress.quiet, True  # its own line per minute says less
        self.progress.advance(1, tokens)
        self.progress.quiet = quiet
        if self.progress.bar:
            self.progress.bar.update(self.progress.task, rate=f"{', '.join(figures)}, {self.progress.rate()}")
        elif state.global_step % EVERY == 0 or state.global_step == state.max_steps or self.interrupts.asked:
            passed = time.monotonic() - self.progress.start
            left = passed / max(1, state.global_step - self.first) * (state.max_steps - state.global_step)
            streams.say(
                f"cai {self.settings.step}: step {state.global_step} of {state.max_steps}, {', '.join(figures)}, "
                f"{self.progress.rate()}, {left:.0f} s left",
                self.settings.quiet,
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the step's line, then mark its checkpoint complete."""
        self.flush()
        self.workspace.seal(state.global_step)
        self.saved = time.monotonic()
        self.last_save = self.saved - self.busy
        self.saving += self.last_save

    def flush(self) -> None:
        """Write the step's line."""
        if self.line:
            self.metrics.write([self.line])
            self.line = {}

    def close(self) -> None:
        """Write what is left, and remove the progress bar."""
        if self.progress:
            self.progress.close()
        self.flush()
        if self.stopped:
            streams.warn(f"stopped at {self.stopped}")
