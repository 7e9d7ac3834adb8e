"""The scorer: a preference model, which is a sequence classifier with one output, the raw reward.

The score is read at the last token of the conversation. Its place comes from the row's length, not from the padding, so it
is right also for models whose pad token is their end token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai_cli.engines import models
from cai_cli.engines.base import Feed, Key, Request, Score
from cai_cli.engines.pool import Pool, read_tokens
from cai_cli.errors import InputError


def require_preference_model(folder: Path) -> None:
    """InputError unless the directory holds a sequence classifier with one output. Loads no weights."""
    config = models.read_config(folder)
    outputs = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    if not models.is_preference_model(folder) or outputs != 1:
        raise InputError(
            f"{folder}: not a preference model (a sequence classifier with one output); make one with `cai train-pm`"
        )


class PreferenceModel:
    """A loaded preference model. Scores are raw outputs, without an activation. See `engines.base.Engine`."""

    def __init__(self, folder: Path, dtype: str = "auto", batch_size: int | None = None, trust_remote_code: bool = False) -> None:
        from transformers import AutoModelForSequenceClassification

        from cai_cli.engines.cache import FEW, MANY

        require_preference_model(folder)
        self.device, self.context = models.device(), models.context_length(folder)
        self.batch_size = batch_size or (MANY if self.device == "cuda" else FEW)  # its tokens are limited besides
        with models.loading(folder):
            self.model = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=models.resolve_dtype(models.exact_dtype(dtype, folder)),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
            )
        self.model.to(self.device).eval()
        self.joins: bool | None = None
        """Whether several conversations can be one row; None before it was tried."""

    def score_ids(self, rows: list[list[int]]) -> list[float]:
        """The raw score of each row of token ids, in the order of the rows."""
        found = dict(self.run(iter([(i, Request("score", ids, "")) for i, ids in enumerate(rows)])))
        return [found[i].score for i in range(len(rows))]

    def run(self, feed: Feed) -> Iterator[tuple[Key, Score]]:
        """Yield each request's score. A batch is the oldest request and others of similar length."""
        pool = Pool(feed)
        while not pool.ended or pool.waiting:
            pool.fill()
            batch = pool.take("score", self.batch_size, read_tokens(self.device))
            scores = self._forward([request.ids for _, request in batch]) if batch else []
            for (key, request), score in zip(batch, scores, strict=True):
                yield key, Score(score, len(request.ids))

    def _forward(self, rows: list[list[int]]) -> list[float]:
        """The scores of one batch."""
        import torch

        head = getattr(self.model, "score", None)
        with torch.inference_mode():
            if not isinstance(head, torch.nn.Linear):  # an encoder: its classifier reads the first token
                ids, mask, _ = self._padded(rows)
                return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
            # The head always runs in float32: a bf16 output has three digits, too few to rank close answers.
            bias = None if head.bias is None else head.bias.float()
            return torch.nn.functional.linear(self._last(rows).float(), head.weight.float(), bias)[:, 0].tolist()

    def _padded(self, rows: list[list[int]]) -> Any:
        """(ids, mask, lengths) of rows that are padded on the right."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        lengths = torch.tensor([len(row) for row in rows])
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=0).to(self.device)
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(self.device), lengths

    def _last(self, rows: list[list[int]]) -> Any:
        """The hidden states of the rows' last tokens [rows, width]. Conversations that begin alike are computed as one row."""

        from cai_cli.engines.joined import alike, can_group, together, visible

        groups = alike(rows, [len(row) - 1 for row in rows]) if self.joins is not False else []
        if groups and self.joins is None:
            self.joins = can_group(self.model, rows, groups, self.context)
        if groups and self.joins:
            found, row, column = together(rows, groups)
            ids, positions, segments = (part.to(self.device) for part in found[:3])
            given = {"attention_mask": visible(segments, self.model), "position_ids": positions}
        else:
            ids, mask, lengths = self._padded(rows)
            row, column, given = list(range(len(rows))), (lengths - 1).tolist(), {"attention_mask": mask}
        return self.model.base_model(input_ids=ids, use_cache=False, **given).last_hidden_state[row, column]
