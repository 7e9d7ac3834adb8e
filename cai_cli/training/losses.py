"""TRL's trainers of preferences, with soft labels: the probability p that the chosen answer is the better one; and of ratings.

The loss of a pair is -p log sigma(d) - (1 - p) log sigma(-d), times its `weight`. For a preference model, d is the score of
the chosen answer minus that of the rejected one. For DPO, d is beta times the difference of the answers' log ratios to the
starting model. If every p and every weight is 1, this is TRL's own loss. The loss of a rating is the squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from trl import DPOTrainer, RewardTrainer

from cai_cli.engines.joined import visible
from cai_cli.training.pairs import EXTRA

RATED = ("rating", "weight")
"""Columns of rated conversations beside their tokens."""


def soft_loss(d: torch.Tensor, p: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean over pairs of the weighted cross-entropy to the soft label (paper, section 4.1), a scalar.

    d: the margin of the chosen answer [pairs]. p: the probability that it is the better one [pairs]. weight: [pairs]; the
    mean divides by the number of pairs, not by the sum of weights. The loss is lowest where sigma(d) = p: a certain label
    drives the answers apart, and an even one pulls them together.
    """
    return -(weight * (p * logsigmoid(d) + (1 - p) * logsigmoid(-d))).mean()


class SoftRewardTrainer(RewardTrainer):
    """Trains a preference model on soft labels."""

    model: Any

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        _add(self._signature_columns)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`soft_loss` of the chosen answers' scores minus the rejected ones'. Called by TRL."""
        p, weight = (inputs.pop(name) for name in EXTRA)
        scorer = partial(self._joined, model) if "segments" in inputs else model
        _, outputs = super().compute_loss(scorer, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        loss = soft_loss(chosen - rejected, p, weight)
        return (loss, outputs) if return_outputs else loss

    def _joined(self, model: Any, segments: torch.Tensor, ends: torch.Tensor, **given: Any) -> Any:
        """The model's output for pairs in one row each, with the scores of the chosen and then of the rejected conversations."""
        for name in ("attention_mask", "completion_mask"):
            given.pop(name)
        # transformers reads one score per row; the head has computed it at every token
        found: list[torch.Tensor] = []
        hook = self.model.score.register_forward_hook(lambda _, __, scores: found.append(scores))
        try:
            outputs = model(attention_mask=visible(segments, self.model), **given)
        finally:
            hook.remove()
        rows = torch.arange(len(ends), device=ends.device)
        outputs.logits = torch.cat([found[0][rows, ends[:, side]] for side in (0, 1)])
        return outputs


class RatedCollator:
    """Makes a batch of rated conversations, padded on the right: `input_ids`, `attention_mask`, `rating` and `weight`."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `examples`."""
        rows = [torch.tensor(example["input_ids"]) for example in examples]
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
            **{name: torch.tensor([example[name] for example in examples], dtype=torch.float32) for name in RATED},
        }


def squared_error(scores: torch.Tensor, ratings: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean over conversations of weight x (score - rating)^2, a scalar; all [conversations] (paper, section 4.5)."""
    return (weight * (scores - ratings) ** 2).mean()


class RatingTrainer(RewardTrainer):
    """Trains a scorer on ratings of whole conversations, on tokens made by `cai`."""

    model: Any
    _signature_columns: Any

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it holds tokens already; TRL would look for preferences

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", *RATED]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`squared_error` of the scores. Called by TRL."""
        mode = "train" if self.model.training else "eval"
        rating, weight = (inputs.pop(name) for name in RATED)
        outputs = model(**inputs, use_cache=False)
        loss = squared_error(outputs.logits.squeeze(-1).float(), rating, weight)
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss


class SoftDPOTrainer(DPOTrainer):
    """Trains a language model on preferences directly (Rafailov et al. 2023, equation 7), on tokens made by `cai`."""

    model: Any
    data_collator: Any
    ref_model: Any
    args: Any
    precompute_ref_logps: bool

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it holds tokens already; TRL would tokenise text

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        _add(self._signature_columns)

    def _precompute_ref_logps(self, *args: Any, **more: Any) -> Any:
        self.data_collator.decide(self.model)
        return super()._precompute_ref_logps(*args, **more)

    def _log_probabilities(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(log probability of each answer [2 x pairs], entropy of each token [rows, tokens] if the model returns it)."""
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        segments = inputs.get("segments")
        if segments is None:
            given = {"attention_mask": inputs["attention_mask"]}
        else:
            given = {"attention_mask": visible(segments, self.model), "position_ids": inputs["position_ids"]}
        outputs = model(input_ids=inputs["input_ids"], labels=labels, use_cache=False, fused_lm_head=True, **given)
        found = outputs.log_probs
        if segments is None:
            return found.sum(1), outputs.entropy
        return torch.cat([(found * (segments[:, 1:] == side)).sum(1) for side in (1, 2)]), outputs.entropy

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(chosen, rejected) [pairs]: log probabilities under the starting model. TRL calls it before training."""
        with torch.no_grad(), self.compute_loss_context_manager():
            chosen, rejected = self._log_probabilities(model, inputs)[0].chunk(2)
        return chosen, rejected

    def _reference(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The log probability of each answer under the starting model [2 x pairs]."""
        if self.precompute_ref_logps:
            return torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        from accelerate.utils import is_peft_model
        from trl.models.utils import disable_gradient_checkpointing
        from trl.trainer.utils import use_adapter

        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is None and is_peft_model(self.model):  # without its adapter it is the starting model
                with use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=None):
                    return self._log_probabilities(self.model, inputs)[0]
            return self._log_probabilities(self.ref_model, inputs)[0]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """`soft_loss` of beta times the difference of the answers' log ratios to the starting model. Called by TRL."""
        mode = "train" if self.model.training else "eval"
        found, entropy = self._log_probabilities(model, inputs)
        chosen, rejected = (self.beta * (found - self._reference(inputs))).chunk(2)
        assert entropy is not None
        loss = soft_loss(chosen - rejected, inputs["p_chosen"], inputs["weight"])
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        shown = inputs["completion_mask"][:, 1:]
        totals = torch.stack([(entropy.detach() * shown).sum(), shown.sum()])
        summed = self.accelerator.reduce(totals, "sum")
        margins = self.accelerator.gather((chosen - rejected).detach())
        logged = {
            "rewards/accuracies": (margins > 0).float().mean(),
            "rewards/margins": margins.mean(),
            "entropy": summed[0] / summed[1],
        }
        for name, value in logged.items():
            self._metrics[mode][name].append(float(value))
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return (loss, {}) if return_outputs else loss


def _add(columns: list[str] | None) -> None:
    assert columns is not None
    columns.extend(name for name in EXTRA if name not in columns)
