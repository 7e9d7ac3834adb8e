"""The embedded engine: transformers' models, our own decoding loop.

Requests are drawn into a pool (the runner's window), batched by length, and decoded together.
Rows that finish leave the batch and waiting requests take their place. Every random number comes
from (the request's seed, position), so what a request draws depends on no other request.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cai_cli import models
from cai_cli.engines import cache as kv
from cai_cli.engines.base import Choice, Completion, Feed, Key, Request
from cai_cli.errors import CaiError

PREFILL_TOKENS = 16_384
"""Padded prompt tokens computed in one pass at most, to bound memory."""
READ_TOKENS = 2048
"""The same where nothing is generated after them and a CPU computes: more no longer fit its caches, and take longer."""
SHARED_TOKENS = 32
"""The shortest beginning that is worth computing once for many requests."""
LEADS = 16
"""Such beginnings whose keys and values are kept."""


class Pool:
    """Requests drawn from a feed and not yet begun, oldest first."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.waiting, self.ended = feed, list[tuple[Key, Request]](), False

    def fill(self) -> None:
        """Draw all that the feed has just now."""
        while not self.ended:
            try:
                entry = next(self.feed)
            except StopIteration:
                self.ended = True
                return
            if entry is None:
                return
            self.waiting.append(entry)

    def take(self, rows: int, tokens: int = PREFILL_TOKENS) -> list[tuple[Key, Request]]:
        """The oldest request and others of like length that share its beginning, `rows` and `tokens` at most.

        Those that share it are ranked by length and parted into batches, of which this is the oldest one's: to take those
        nearest to it would leave batches of the shortest and the longest.
        """
        if not self.waiting or rows < 1:
            return []
        oldest = self.waiting[0][1]
        alike = [i for i, (_, request) in enumerate(self.waiting) if lead_of(request) == lead_of(oldest)]
        ranked = sorted(alike, key=lambda i: len(self.waiting[i][1].ids))
        place = ranked.index(0)
        batch = range(place // rows * rows, min(place // rows * rows + rows, len(ranked)))
        chosen: list[int] = []
        longest = 0
        for i in (ranked[at] for at in sorted(batch, key=lambda at: abs(at - place))):
            longest = max(longest, len(self.waiting[i][1].ids) - oldest.shared)
            if chosen and longest * (len(chosen) + 1) > tokens:
                break
            chosen.append(i)
        taken = [self.waiting[i] for i in sorted(chosen)]
        gone = set(chosen)
        self.waiting = [entry for i, entry in enumerate(self.waiting) if i not in gone]
        return taken


def lead_of(request: Request) -> list[int]:
    """The tokens that a request shares with others, short of its last, which must be computed for itself."""
    return request.ids[: min(request.shared, len(request.ids) - 1)] if request.shared >= SHARED_TOKENS else []


@dataclass
class _Row:
    """A request being decoded: what it has generated so far."""

    key: Key
    request: Request
    tokens: list[int] = field(default_factory=list)
    reused: int = 0
    finished: bool = False


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides a request's token at a position (0 for its first)."""
    return int.from_bytes(blake2b(struct.pack("<QQ", seed, position), digest_size=7).digest(), "big") / 2**56


def sample(logits: torch.Tensor, requests: list[Request], positions: list[int]) -> list[int]:
    """Draw one token a row from logits [rows, vocabulary], each by its request's own settings and seed.

    Temperature 0 takes the likeliest. Otherwise one uniform number a row picks a token through the
    cumulative distribution, over the likeliest tokens of total probability `top_p`.
    """
    tokens = logits.argmax(-1)
    drawn = [i for i, request in enumerate(requests) if request.temperature > 0]
    if drawn:
        heat = torch.tensor([requests[i].temperature for i in drawn], device=logits.device)
        top_p = torch.tensor([requests[i].top_p for i in drawn], device=logits.device, dtype=torch.float64)
        points = torch.tensor([uniform(requests[i].seed, positions[i]) for i in drawn], device=logits.device, dtype=torch.float64)
        rows = logits[drawn] if len(drawn) < len(requests) else logits
        probabilities = torch.softmax(rows.float() / heat[:, None], -1)
        if bool((top_p < 1).any()):
            ordered, index = probabilities.sort(stable=True, dim=-1, descending=True)
            before = ordered.double().cumsum(-1) - ordered
            ordered = ordered.masked_fill(before >= top_p[:, None], 0.0)
            probabilities = torch.zeros_like(probabilities).scatter_(-1, index, ordered)
        cumulative = probabilities.double().cumsum(-1)
        picked = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True)
        tokens[torch.tensor(drawn, device=logits.device)] = picked.squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens.tolist()


class TransformersEngine:
    """A causal language model run by transformers. See `engines.base.Engine`."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        dtype: torch.dtype,
        batch_size: int,
        deterministic: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.device, self.tokenizer, self.batch_size = models.device(), tokenizer, batch_size
        self.context = models.context_length(folder)
        if deterministic:
            self.batch_size = 1
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses, or isn't, deterministic
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(os.cpu_count() or 1)
        try:
            self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
        except Exception as problem:  # transformers, safetensors and torch each raise kinds of their own
            raise CaiError(f"{folder}: the model can't be loaded ({' '.join(str(problem).split())[:300]})") from None
        self.model.to(self.device).eval()  # type: ignore[arg-type]
        self.end_tokens = end_tokens(self.model, tokenizer)
        self._leads: dict[tuple[int, ...], kv.Cache] = {}

    def generate(self, feed: Feed) -> Iterator[tuple[Key, Completion]]:
        """Decode requests in a batch whose rows leave and join. Yields each as it finishes.

        A finished row stays, unread, until a quarter of the batch has finished: to take rows out is to copy the
        others' keys and values, and a pass over new rows costs about the same for one as for a few.
        """
        pool = Pool(feed)
        rows: list[_Row] = []
        cache, mask = None, torch.empty(0, 0)
        while True:
            pool.fill()
            live = [i for i, row in enumerate(rows) if not row.finished]
            if not live:
                rows, cache = [], None
            changeable = cache is None or kv.can_change_rows(cache)
            free = self.batch_size - len(live)
            if pool.waiting and (cache is None or (changeable and free >= max(1, self.batch_size // 4))):
                new = [_Row(*entry) for entry in pool.take(free)]
                logits, new_cache, new_mask, reused = self._prefill([row.request for row in new])
                for row, count in zip(new, reused, strict=True):
                    row.reused = count
                if cache is None:
                    cache, mask, rows = new_cache, new_mask, new
                else:
                    mask = self._regroup(cache, mask, live, new_cache, new_mask)
                    rows = [rows[i] for i in live] + new
                self._append(new, logits)
            elif cache is not None:
                if 4 * (len(rows) - len(live)) >= len(rows):
                    mask, rows = self._regroup(cache, mask, live), [rows[i] for i in live]
                self._append(rows, self._step(rows, cache, mask := _grow(mask)))
            elif pool.ended:
                return
            for row in rows:
                if not row.finished and (completion := self._completion(row)):
                    row.finished = True
                    yield row.key, completion

    def _regroup(
        self, cache: kv.Cache, mask: torch.Tensor, rows: list[int], other: kv.Cache | None = None, new: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Keep these rows of a cache, and append another's. Returns the mask of the cache as it then is."""
        kept = mask[rows]
        if not kv.can_change_rows(cache):
            cache.batch_select_indices(torch.tensor(rows, device=self.device))
            return kept
        drop = int(kept.argmax(-1).min())  # columns that are padding in every row kept
        kv.regroup(cache, torch.tensor(rows), drop, other)
        parts = [kept[:, drop:], *([] if new is None else [new])]
        columns = max(part.shape[1] for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (columns - part.shape[1], 0)) for part in parts])

    @torch.inference_mode()
    def _prefill(self, requests: list[Request]) -> tuple[torch.Tensor, kv.Cache, torch.Tensor, list[int]]:
        """(logits of the next token [rows, vocabulary], cache, mask [rows, columns], reused tokens) of left-padded prompts.

        The beginning that all of them share comes first, then each one's padding and its own tokens.
        """
        known = tuple(lead_of(requests[0])) in self._leads
        lead, cache = self._lead(requests[0])
        own = [request.ids[lead:] for request in requests]
        columns = max(map(len, own))
        ids = torch.zeros(len(requests), columns, dtype=torch.long)
        mask = torch.ones(len(requests), lead + columns, dtype=torch.long)
        for i, tokens in enumerate(own):
            ids[i, columns - len(tokens) :] = torch.tensor(tokens)
            mask[i, lead : lead + columns - len(tokens)] = 0
        cache = kv.spread(cache, len(requests), columns) if lead else kv.new_cache(self.model)
        mask = mask.to(self.device)
        out = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, lead:],
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], cache, mask, [lead if known or i else 0 for i in range(len(requests))]

    @torch.inference_mode()
    def _read(self, requests: list[Request]) -> tuple[torch.Tensor, list[int]]:
        """(logits of the next token [rows, vocabulary], reused tokens) of prompts that nothing is generated after.

        They are padded on the right, where nothing that is read can see it: that needs no mask, which costs a twentieth.
        """
        known = tuple(lead_of(requests[0])) in self._leads
        lead, shared = self._lead(requests[0])
        own = [torch.tensor(request.ids[lead:]) for request in requests]
        ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(self.device)
        last = torch.tensor([len(tokens) - 1 for tokens in own])

        def at_last(_: torch.nn.Module, hidden: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (hidden[0][torch.arange(len(own)), last][:, None],)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(at_last)  # or it would read every place
        try:
            cache = kv.spread(shared, len(own), ids.shape[1]) if lead else None
            out = self.model(input_ids=ids, cache=cache, use_cache=bool(lead))
        finally:
            hook.remove()
        return out.logits[:, -1], [lead if known or i else 0 for i in range(len(own))]

    @torch.inference_mode()
    def _lead(self, request: Request) -> tuple[int, kv.Cache]:
        """(tokens, keys and values of one row) of a request's shared beginning, computed once; 0 tokens where there is none."""
        tokens = tuple(lead_of(request))
        if tokens not in self._leads:
            cache = kv.new_cache(self.model)
            if not tokens or not kv.can_change_rows(cache):
                return 0, cache
            ids = torch.tensor([tokens], device=self.device)
            self.model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            while len(self._leads) >= LEADS:
                self._leads.pop(next(iter(self._leads)))
            self._leads[tokens] = cache
        return len(tokens), self._leads[tokens]

    @torch.inference_mode()
    def _step(self, rows: list[_Row], cache: kv.Cache, mask: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] after each row's newest token, which `mask` already counts."""
        ids = torch.tensor([[row.tokens[-1]] for row in rows], device=self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def _append(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Draw the next token of each row that isn't finished."""
        live = [i for i, row in enumerate(rows) if not row.finished]
        drawing = [rows[i] for i in live]
        logits = logits[live] if len(live) < len(rows) else logits
        tokens = sample(logits, [row.request for row in drawing], [len(row.tokens) for row in drawing])
        for row, token in zip(drawing, tokens, strict=True):
            row.tokens.append(token)

    def _completion(self, row: _Row) -> Completion | None:
        """The row's completion, if its newest token ends it."""
        request, tokens = row.request, row.tokens
        ended = tokens[-1] in self.end_tokens
        finish = "stop" if ended else "length" if len(tokens) >= request.max_tokens else ""
        if request.stop and not ended:
            # A stop string ends within the newest token, so it lies in the last few tokens' text.
            reach = max(map(len, request.stop)) + 4
            tail = str(self.tokenizer.decode(tokens[-reach:], skip_special_tokens=True))
            if any(stop in tail for stop in request.stop):
                finish = "stop"
        if not finish:
            return None
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(text, finish, request.seed, len(request.ids), len(tokens), row.reused)

    def choose(self, feed: Feed) -> Iterator[tuple[Key, Choice]]:
        """Log probabilities of each request's options as the next token: one pass a batch."""
        pool = Pool(feed)
        while True:
            pool.fill()
            if not (batch := pool.take(self.batch_size, READ_TOKENS if self.device == "cpu" else PREFILL_TOKENS)):
                return
            logits, reused = self._read([request for _, request in batch])
            logprobs = torch.log_softmax(logits.float(), -1)
            for row, count, (key, request) in zip(logprobs, reused, batch, strict=True):
                options = request.options or {}
                chosen = {name: float(row[token]) for name, token in options.items()}
                yield key, Choice(chosen, len(request.ids), reused_tokens=count)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion, by the generation settings and the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(named) if isinstance(named, list) else {named}
    return {token for token in ends | {tokenizer.eos_token_id} if token is not None}


def _grow(mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
