"""TRL's RewardTrainer with soft labels: the probability that the chosen answer is the better one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

EXTRA = ("p_chosen", "weight")


@dataclass
class SoftCollator(DataCollatorForPreference):
    """Pads a batch to its longest row, chosen in the first half and rejected in the second.

    Carries `p_chosen` and `weight` [pairs].
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of some examples."""
        return {
            **super().torch_call(examples),
            **{name: torch.tensor([example[name] for example in examples], dtype=torch.float32) for name in EXTRA},
        }


class SoftRewardTrainer(RewardTrainer):
    """Cross-entropy to `p_chosen` (paper, section 4.1); with 1 everywhere it is RewardTrainer's own loss."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        columns.extend(name for name in EXTRA if name not in columns)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-p log sigma(d) - (1 - p) log sigma(-d), d = reward of the chosen less reward of the rejected.

        The mean over pairs of that times the pair's weight.
        """
        p, weight = (inputs.pop(name) for name in EXTRA)
        _, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        d = chosen - rejected
        loss = -(weight * (p * logsigmoid(d) + (1 - p) * logsigmoid(-d))).mean()
        return (loss, outputs) if return_outputs else loss
