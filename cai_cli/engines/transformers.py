"""The built-in engine: a transformers model with a decoding loop of its own.

Requests are collected in a pool, batched by length, and decoded together. Rows that finish leave the batch, and waiting
requests take their place. Every random number is a hash of (the request's seed, position), so what a request draws does not
depend on other requests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cai_cli.engines import attention, heap, models, packed
from cai_cli.engines import cache as kv
from cai_cli.engines.base import Choice, Completion, Feed, Key, Request, Result, Score
from cai_cli.engines.draws import pick
from cai_cli.engines.joined import Group, alike, can_group, together, visible
from cai_cli.engines.pool import READ_TOKENS, Pool, prefix_of, read_tokens

PREFIXES = 16
"""The largest number of shared prefixes whose keys and values are kept."""


@dataclass
class _Row:
    """A request that is being decoded."""

    key: Key
    request: Request
    tokens: list[int] = field(default_factory=list)
    """Generated so far."""
    reused: int = 0
    """Prompt tokens that were computed for another request."""
    finished: bool = False
    """Its completion was yielded. The row may still be in the batch; its further tokens are not read."""


@dataclass
class _Batch:
    """The requests that are decoded together."""

    rows: list[_Row] = field(default_factory=list)
    cache: kv.Cache | None = None
    """The rows' keys and values. None if there is no batch."""
    mask: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """[rows, columns]: 1 where the cache holds a token of the row, 0 where it holds padding."""
    before: tuple[int, ...] = ()
    """Tokens that all rows come after, and that the cache and the mask do not hold (`cache.SharedLayer`)."""

    @property
    def live(self) -> bool:
        """Whether a row is unfinished."""
        return any(not row.finished for row in self.rows)


def sample(logits: torch.Tensor, requests: list[Request], positions: list[int]) -> list[int]:
    """One token per row of logits [rows, vocabulary]: the most likely one at temperature 0, else by `draws.pick`."""
    if torch.are_deterministic_algorithms_enabled():
        logits = logits.cpu()  # a sum over the vocabulary on a GPU is refused
    drawn = [i for i, request in enumerate(requests) if request.temperature > 0]
    draws = [(requests[i].seed, requests[i].temperature, requests[i].top_p) for i in drawn]
    if len(drawn) == len(requests):
        return pick(logits, draws, positions).tolist()
    tokens = logits.argmax(-1)
    if drawn:
        tokens[drawn] = pick(logits[drawn], draws, [positions[i] for i in drawn])
    return tokens.tolist()


class TransformersEngine:
    """A causal language model run by transformers. See `engines.base.Engine`."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        dtype: torch.dtype,
        batch_size: int | None,
        deterministic: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.device, self.tokenizer = models.device(), tokenizer
        self.context = models.context_length(folder)
        if deterministic:
            batch_size = 1
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA is not deterministic, or refuses to run
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(torch.get_num_threads())  # MKL must not choose another number, which changes the order of sums
        with models.loading(folder):
            self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
        self.model.to(self.device).eval()  # type: ignore[arg-type]
        self.batch_size = batch_size or kv.fitting_rows(self.model)
        if self.device == "cpu":
            attention.use(self.model)
            packed.pack(self.model)
            heap.keep()
        self.end_tokens = end_tokens(self.model, tokenizer)
        self.joins: bool | None = None
        """Whether several prompts can be one row; None before it was tried."""
        self.shares: bool | None = None if self.device == "cpu" and not deterministic else False
        """Whether a prefix need not be copied into each row; None before it was tried."""
        self._prefixes: dict[tuple[int, ...], kv.Cache] = {}  # by tokens: one row of keys and values, oldest first

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each request's result as it finishes: completions from a batch whose rows leave and join, others by batch."""
        pool, batch = Pool(feed), _Batch()
        while batch.live or pool.waiting or not pool.ended:
            # If there is nothing to do, this waits: a feed blocks until it has a request if none is in flight.
            pool.fill()
            # Prompts are read between two decoding steps when they fill a batch, or when there is nothing to decode.
            idle = not batch.live and not pool.count("generate")
            if pool.count("choose") >= self.batch_size or (idle and pool.count("choose")):
                yield from self._choose(pool.take("choose", self.batch_size, read_tokens(self.device)))
            elif pool.count("score") >= self.batch_size or (idle and pool.count("score")):
                # on every device: logits of whole answers take memory for each token of the vocabulary
                yield from self._score(pool.take("score", self.batch_size, READ_TOKENS))
            elif not idle:
                yield from self._decode(pool, batch)

    def _decode(self, pool: Pool, batch: _Batch) -> Iterator[tuple[Key, Completion]]:
        """One step of the batch: a token more for each row, or new rows with their first token. Yields what finishes."""
        rows, live = batch.rows, [i for i, row in enumerate(batch.rows) if not row.finished]
        if not live:
            batch.rows, batch.cache = [], None  # no batch: the next prefill starts one, with a cache of its own
        # Without full attention in every layer rows can leave but not join: requests wait until the batch is done.
        changeable = batch.cache is None or kv.can_change_rows(batch.cache)
        free = self.batch_size - len(live)
        # Rows join only when a quarter of the batch's places is free: a prefill costs about the same for one row as for a
        # few, and each join copies the keys and values of all rows. If there is no batch, there is nothing to wait for.
        if pool.count("generate") and (batch.cache is None or (changeable and free >= max(1, self.batch_size // 4))):
            new = [_Row(*entry) for entry in pool.take("generate", free)]
            logits, new_cache, new_mask, reused = self._prefill([row.request for row in new])
            for row, count in zip(new, reused, strict=True):
                row.reused = count
            before = self._before(new[0].request)
            if batch.cache is None:  # a new batch
                batch.cache, batch.mask, batch.rows, batch.before = new_cache, new_mask, new, before
            else:
                if batch.before != before:
                    batch.mask, new_mask = kv.hold(batch.cache, batch.mask, batch.before), kv.hold(new_cache, new_mask, before)
                    batch.before = ()
                batch.mask = self._regroup(batch.cache, batch.mask, live, new_cache, new_mask)
                batch.rows = [rows[i] for i in live] + new
            self._append(new, logits)
        else:
            # Finished rows stay, and their tokens are ignored, until they are a quarter of the batch: taking rows out
            # copies the keys and values of all others.
            assert batch.cache is not None
            if 4 * (len(rows) - len(live)) >= len(rows):
                batch.mask, batch.rows = self._regroup(batch.cache, batch.mask, live), [rows[i] for i in live]
            batch.mask = _grow(batch.mask)
            self._append(batch.rows, self._step(batch.rows, batch.cache, batch.mask, len(batch.before)))
        for row in batch.rows:
            if not row.finished and (completion := self._completion(row)):
                row.finished = True
                yield row.key, completion

    def _regroup(
        self, cache: kv.Cache, mask: torch.Tensor, rows: list[int], other: kv.Cache | None = None, new: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Keep only `rows` of a cache and append the rows of `other`, whose mask is `new`. Returns the mask of the result."""
        kept = mask[rows]
        if not kv.can_change_rows(cache):  # transformers' own layers can only drop rows
            cache.batch_select_indices(torch.tensor(rows, device=self.device))
            return kept
        drop = int(kept.argmax(-1).min())  # the first columns are padding in every kept row
        kv.regroup(cache, torch.tensor(rows), drop, other)
        parts = [kept[:, drop:], *([] if new is None else [new])]
        columns = max(part.shape[1] for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (columns - part.shape[1], 0)) for part in parts])

    @torch.inference_mode()
    def _prefill(self, requests: list[Request]) -> tuple[torch.Tensor, kv.Cache, torch.Tensor, list[int]]:
        """(logits of the next token [rows, vocabulary], cache, mask [rows, columns], reused tokens) of left-padded prompts.

        Columns: first the prefix that all rows share, then each row's padding, then its own tokens. A prompt that several
        requests have (the samples of a record) is computed once.
        """
        # Whether the prefix was computed before this pass. If not, its tokens are counted once: the first row reuses none.
        known = tuple(prefix_of(requests[0])) in self._prefixes
        prefix, cache = self._prefix(requests[0])
        first: dict[tuple[int, ...], int] = {}
        places = [first.setdefault(tuple(request.ids[prefix:]), len(first)) for request in requests]
        own = list(first)
        columns = max(map(len, own))
        # Padding is between the prefix and a row's own tokens, so that the newest token of every row is in the last column.
        # A decoding step then appends one column for all rows, and rows of other lengths can join later.
        cache, held = self._start(cache, prefix, len(own), columns)
        ids = torch.zeros(len(own), columns, dtype=torch.long)
        mask = torch.ones(len(own), held + columns, dtype=torch.long)
        for i, tokens in enumerate(own):
            ids[i, columns - len(tokens) :] = torch.tensor(tokens)
            mask[i, held : held + columns - len(tokens)] = 0
        mask = mask.to(self.device)
        out = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            # A token's position is the number of tokens before it that are not padding. Padding at the start of a row without
            # a prefix would get -1. It is masked, but its position must be valid.
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, held:] + prefix - held,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,  # sampling reads only the last column's logits; those of whole prompts take gigabytes
        )
        reused = [prefix if known or i else 0 for i in range(len(requests))]
        if len(own) == len(requests):
            return out.logits[:, -1], cache, mask, reused
        for i, place in enumerate(places):
            if place in places[:i]:
                reused[i] = len(requests[i].ids)
        return out.logits[places, -1], cache, self._regroup(cache, mask, places), reused

    @torch.inference_mode()
    def _read(self, requests: list[Request]) -> tuple[torch.Tensor, list[int]]:
        """(logits [rows, vocabulary], reused tokens) of prompts after which nothing is generated.

        One row of logits per request, those of the next token; of a request with an answer, those of each of its tokens.
        Padding is on the right. Attention is causal, so a row's tokens do not see it, and no mask is needed. That saves 5%.
        """
        known = tuple(prefix_of(requests[0])) in self._prefixes
        prefix, shared = self._prefix(requests[0])
        own = [torch.tensor(request.ids[prefix:]) for request in requests]
        ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(self.device)
        # (row, column) of the token after which each row of logits comes
        read = [(i, len(own[i]) - 1 - n) for i, r in enumerate(requests) for n in (range(r.answer, 0, -1) if r.answer else (0,))]
        rows, columns = zip(*read, strict=True)
        with self._logits_at(rows, columns):
            if prefix:
                cache, _ = self._start(shared, prefix, len(own), ids.shape[1])
                places = torch.arange(prefix, prefix + ids.shape[1], device=self.device)[None]
                out = self.model(input_ids=ids, position_ids=places, cache=cache, use_cache=True)
            else:
                out = self.model(input_ids=ids, use_cache=False)
        return out.logits[:, -1], [prefix if known or i else 0 for i in range(len(own))]

    def _alike(self, requests: list[Request]) -> list[Group]:
        """The requests whose prompts begin alike together; empty if that saves too little, or the model cannot."""
        if self.joins is False:
            return []
        texts = [request.ids for request in requests]
        found = alike(texts, [len(text) - 1 for text in texts], len(prefix_of(requests[0])))
        if found and self.joins is None:
            self.joins = can_group(self.model, texts, found, self.context)
        return found if self.joins else []

    @torch.inference_mode()
    def _read_joined(self, requests: list[Request], groups: list[Group]) -> tuple[torch.Tensor, list[int]]:
        """As `_read` for one row of logits per request, with the requests of a group in one row (`joined`)."""
        known = tuple(prefix_of(requests[0])) in self._prefixes
        prefix, shared = self._prefix(requests[0])
        reused = [prefix if known or i else 0 for i in range(len(requests))]
        for begin, numbers in groups:
            for i in numbers[1:]:
                reused[i] += begin - prefix
        rows, row, column = together([request.ids for request in requests], groups, prefix)
        ids, positions, segments = (part.to(self.device) for part in rows[:3])
        cache, held = self._start(shared, prefix, len(groups), ids.shape[1]) if prefix else (None, 0)
        with self._logits_at(row, column):
            mask = visible(segments, self.model, held)
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions + prefix, cache=cache, use_cache=bool(prefix)
            )
        return out.logits[:, -1], reused

    @contextmanager
    def _logits_at(self, rows: Sequence[int], columns: Sequence[int]) -> Iterator[None]:
        """Within it the model computes logits only at these places, one row of one column for each."""

        def there(_: torch.nn.Module, hidden: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (hidden[0][list(rows), list(columns)][:, None],)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(there)
        try:
            yield
        finally:
            hook.remove()

    @torch.inference_mode()
    def _prefix(self, request: Request) -> tuple[int, kv.Cache]:
        """(number of tokens, keys and values [1 row]) of a request's prefix, computed once. 0 tokens if it has no prefix."""
        tokens = tuple(prefix_of(request))
        if tokens not in self._prefixes:
            cache = kv.new_cache(self.model)
            if not tokens or not kv.can_change_rows(cache):  # only the rows of a roomy cache can be copied (`spread`)
                return 0, cache
            ids = torch.tensor([tokens], device=self.device)
            self.model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            while len(self._prefixes) >= PREFIXES:
                self._prefixes.pop(next(iter(self._prefixes)))
            self._prefixes[tokens] = cache
        return len(tokens), self._prefixes[tokens]

    def _start(self, prefix: kv.Cache, tokens: int, rows: int, columns: int) -> tuple[kv.Cache, int]:
        """(a cache for `rows` rows after a prefix, how many columns of the prefix it holds). The prefix's own does not change.

        `columns`: how many columns come next.
        """
        if not tokens:
            return kv.new_cache(self.model), 0
        if self.shares is None:
            self.shares = self.model.config._attn_implementation == attention.NAME and kv.same_after(self.model, prefix, tokens)
        return (kv.after(prefix), 0) if self.shares else (kv.spread(prefix, rows, columns), tokens)

    def _before(self, request: Request) -> tuple[int, ...]:
        """The tokens that the rows of `_prefill` come after and do not hold."""
        tokens = tuple(prefix_of(request))
        return tokens if self.shares and tokens in self._prefixes else ()

    @torch.inference_mode()
    def _step(self, rows: list[_Row], cache: kv.Cache, mask: torch.Tensor, before: int) -> torch.Tensor:
        """Logits [rows, vocabulary] after each row's newest token. `mask` has that token's column already."""
        ids = torch.tensor([[row.tokens[-1]] for row in rows], device=self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1 + before,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def _append(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Draw the next token of each row that is not finished. `logits` has one row per row of the batch."""
        live = [i for i, row in enumerate(rows) if not row.finished]
        drawing = [rows[i] for i in live]
        logits = logits[live] if len(live) < len(rows) else logits
        tokens = sample(logits, [row.request for row in drawing], [len(row.tokens) for row in drawing])
        for row, token in zip(drawing, tokens, strict=True):
            row.tokens.append(token)

    def _completion(self, row: _Row) -> Completion | None:
        """The row's completion, or None if its newest token does not end it."""
        request, tokens = row.request, row.tokens
        ended = tokens[-1] in self.end_tokens
        finish = "stop" if ended else "length" if len(tokens) >= request.max_tokens else ""
        if request.stop and not ended:
            # Only the text of the last tokens is decoded at each step: a stop string that was not there before ends in the
            # newest token.
            reach = max(map(len, request.stop)) + 4
            tail = str(self.tokenizer.decode(tokens[-reach:], skip_special_tokens=True))
            if any(stop in tail for stop in request.stop):
                finish = "stop"
        if not finish:
            return None
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(text, finish, request.seed, len(request.ids), len(tokens), row.reused, tuple(tokens))

    def _choose(self, batch: list[tuple[Key, Request]]) -> Iterator[tuple[Key, Choice]]:
        """The log probabilities of each request's options as the next token, in one pass."""
        requests = [request for _, request in batch]
        groups = self._alike(requests)
        logits, reused = self._read_joined(requests, groups) if groups else self._read(requests)
        logprobs = torch.log_softmax(logits.float(), -1)
        for row, count, (key, request) in zip(logprobs, reused, batch, strict=True):
            options = request.options or {}
            chosen = {name: float(row[token]) for name, token in options.items()}
            yield key, Choice(chosen, len(request.ids), reused_tokens=count)

    def _score(self, batch: list[tuple[Key, Request]]) -> Iterator[tuple[Key, Score]]:
        """The log-likelihood of each request's answer, in one pass: the sum over its tokens, each after all tokens before it."""
        logits, _ = self._read([request for _, request in batch])
        tokens = torch.tensor([token for _, request in batch for token in request.ids[-request.answer :]])
        logprobs = torch.log_softmax(logits.float(), -1).gather(-1, tokens.to(self.device)[:, None])[:, 0].double()
        parts = logprobs.split([request.answer for _, request in batch])
        for part, (key, request) in zip(parts, batch, strict=True):
            yield key, Score(float(part.sum()), len(request.ids))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion, from the generation settings and the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(named) if isinstance(named, list) else {named}
    return {token for token in ends | {tokenizer.eos_token_id} if token is not None}


def _grow(mask: torch.Tensor) -> torch.Tensor:
    """The mask with one more column, for each row's newest token."""
    return torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
