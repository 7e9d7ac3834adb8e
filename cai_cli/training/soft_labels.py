"""TRL's RewardTrainer with soft labels: the probability that the chosen answer is the better one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference


@dataclass
class SoftCollator(DataCollatorForPreference):
    """Pads a batch to its longest row, chosen in the first half and rejected in the second, and carries `p_chosen` [pairs]."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of some examples."""
        return {
            **super().torch_call(examples),
            "p_chosen": torch.tensor([example["p_chosen"] for example in examples], dtype=torch.float32),
        }


class SoftRewardTrainer(RewardTrainer):
    """Cross-entropy to `p_chosen` (paper, section 4.1); with 1 everywhere it is RewardTrainer's own loss."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        if "p_chosen" not in columns:
            columns.append("p_chosen")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-p log sigma(d) - (1 - p) log sigma(-d), d = reward of the chosen less reward of the rejected; the mean over pairs."""
        p = inputs.pop("p_chosen")
        _, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        d = chosen - rejected
        loss = -(p * logsigmoid(d) + (1 - p) * logsigmoid(-d)).mean()
        return (loss, outputs) if return_outputs else loss
