"""A key-value cache whose rows can leave and join while a batch is being decoded.

At each step transformers' own `DynamicLayer` copies all keys and values, which on a CPU costs as much as the model itself.
`RoomyLayer` keeps spare columns and writes new ones in place. Keys and values have shape [rows, heads, columns, width]. Rows
are left-padded: the last column is the newest token of every row, so a row that joins is padded on its left.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from cai_cli.engines import models
from cai_cli.engines.joined import CLOSE

SPARE = 64
"""Spare columns of a layer that was filled or has grown."""
FEW, MANY = 32, 512
"""Rows of a batch by default: on a CPU, where more are hardly faster, and at most on a GPU."""
TOKENS = 2048
"""The length of a row for which a GPU's memory is divided."""


class RoomyLayer(DynamicLayer):
    """A `DynamicLayer` that grows by `SPARE` columns at a time. `keys` and `values` are views of a larger buffer."""

    keys: Any  # optional tensors in the base class; here they are always set while the layer is in use
    values: Any

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns [rows, heads, new columns, width]. Returns all keys and values so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.replace(key_states, value_states)
            return self.keys, self.values
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        # The only copy of all columns, once per SPARE steps.
        if end > self._room[0].shape[-2]:
            self.replace(self.keys, self.values, end - start)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor, more: int = 0) -> None:
        """Make these the layer's content, in a new buffer with room for `more` + SPARE further columns."""
        columns = keys.shape[-2]
        self._room = []
        for states in (keys, values):
            rows, heads, _, width = states.shape
            room = states.new_zeros(rows, heads, columns + more + SPARE, width)
            room[:, :, :columns] = states
            self._room.append(room)
        self.keys, self.values = (room[:, :, :columns] for room in self._room)

    def refill(self, rows: torch.Tensor, drop: int, other: RoomyLayer | None) -> None:
        """Keep `rows` without their first `drop` columns, and append the rows of `other`. See `regroup`."""
        kept = self.keys.shape[-2] - drop
        columns = max(kept, other.keys.shape[-2]) if other is not None else kept
        count = len(rows) + (0 if other is None else other.keys.shape[0])
        new = []
        for name in ("keys", "values"):
            mine = getattr(self, name)
            room = mine.new_zeros(count, mine.shape[1], columns + SPARE, mine.shape[3])
            for i, row in enumerate(rows.tolist()):
                room[i, :, columns - kept : columns] = mine[row, :, drop:]
            if other is not None:
                theirs = getattr(other, name)
                room[len(rows) :, :, columns - theirs.shape[-2] : columns] = theirs
            new.append(room)
        self._room = new
        self.keys, self.values = (room[:, :, :columns] for room in new)


class SharedLayer(RoomyLayer):
    """A `RoomyLayer` whose rows all come after the same tokens, which it does not hold.

    `before` has their keys and values [1, heads, columns, width]. They are an attribute of the keys that the model's attention
    gets (`attention.attend`).
    """

    before: tuple[torch.Tensor, torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns. Returns all keys and values of the rows so far."""
        keys, values = super().update(key_states, value_states)
        keys.before = self.before  # type: ignore[attr-defined]
        return keys, values

    def whole(self) -> RoomyLayer:
        """A layer that holds `before` in each row."""
        found = RoomyLayer()
        parts = zip(self.before, (self.keys, self.values), strict=True)
        keys, values = (torch.cat([first.expand(own.shape[0], -1, -1, -1), own], 2) for first, own in parts)
        found.lazy_initialization(keys, values)
        found.replace(keys, values)
        return found


def new_cache(model: PreTrainedModel) -> Cache:
    """An empty cache. Its layers are roomy if every layer of the model has full attention."""
    cache = DynamicCache(config=model.config)
    # Other layers cannot be regrouped: a sliding-window layer, for example, does not hold one column per token.
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def fitting_rows(model: PreTrainedModel) -> int:
    """How many rows a batch has by default: on a GPU as many as its free memory holds twice, because a change of rows copies."""
    if model.device.type != "cuda":
        return FEW
    context = model.config.get_text_config().max_position_embeddings
    row = models.cached_numbers(model.config) * model.dtype.itemsize * min(TOKENS, context)
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, min(MANY, free // (2 * row)))


def can_change_rows(cache: Cache) -> bool:
    """Whether rows may join, and columns may be dropped: full attention in every layer."""
    return bool(cache.layers) and all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def spread(cache: Cache, rows: int, room: int) -> Cache:
    """A copy of a one-row cache for `rows` rows, with room for `room` + SPARE more columns. The original is not changed."""
    copy = DynamicCache()
    copy.layers = []
    for layer in _layers(cache):
        new = RoomyLayer()
        new.lazy_initialization(layer.keys, layer.values)
        # `expand` copies nothing; `replace` copies each row into the new buffer.
        keys, values = (states.expand(rows, -1, -1, -1) for states in (layer.keys, layer.values))
        new.replace(keys, values, room)
        copy.layers.append(new)
    return copy


def after(cache: Cache) -> Cache:
    """An empty cache for any number of rows that come after the tokens of a one-row cache, which is not copied."""
    found = DynamicCache()
    found.layers = []
    for layer in _layers(cache):
        new = SharedLayer()
        new.before = layer.keys, layer.values
        found.layers.append(new)
    return found


def hold(cache: Cache, mask: torch.Tensor, before: tuple[int, ...]) -> torch.Tensor:
    """Let a cache hold the tokens that it comes after. Returns its mask."""
    if before:
        cache.layers = [layer.whole() for layer in _layers(cache)]
    return torch.nn.functional.pad(mask, (len(before), 0), value=1)


def same_after(model: PreTrainedModel, prefix: Cache, tokens: int) -> bool:
    """Whether a model computes the same after a prefix that it shares as after a copy of it: two rows, and then a column."""
    ids = torch.arange(7, 15).view(2, 4)
    ways = {"after": after(prefix), "spread": spread(prefix, 2, 4)}
    try:
        for columns in (slice(0, 3), slice(3, 4)):
            places = torch.arange(tokens, tokens + 4)[None, columns]
            base: Any = model.base_model
            found = [
                base(input_ids=ids[:, columns], position_ids=places, cache=cache, use_cache=True).last_hidden_state[:, -1]
                for cache in ways.values()
            ]
            if not (found[0] - found[1]).norm() <= CLOSE.get(model.dtype, 0) * found[1].norm():
                return False
    except (TypeError, ValueError, RuntimeError, AttributeError):  # it does something else with its keys
        return False
    return True


def _layers(cache: Cache) -> list[Any]:
    """The layers, untyped: all are `RoomyLayer`s, which the type of `Cache.layers` does not say."""
    return list(cache.layers)


def regroup(cache: Cache, rows: torch.Tensor, drop: int, other: Cache | None = None) -> None:
    """Keep only `rows`, without their first `drop` columns, and append all rows of `other`. Shorter rows are padded on the left.

    One pass does both, so that each key and value is copied once: with long prompts a copy costs as much as a few tokens.
    """
    for i, layer in enumerate(_layers(cache)):
        joined = None if other is None else _layers(other)[i]
        layer.refill(rows, drop, joined)
