"""A key-value cache whose rows can leave and join while a batch is being decoded.

transformers' own `DynamicLayer` copies every key and value at each step, which on a CPU costs as
much as the model. `RoomyLayer` keeps spare columns and writes in place. Rows are left-padded: the
newest column is the last for all of them, so a row that joins is padded on its left.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

SPARE = 64
"""Columns added when a layer is full."""


class RoomyLayer(DynamicLayer):
    """A `DynamicLayer` of shape [rows, heads, columns, width] that grows by `SPARE` columns at a time."""

    keys: Any  # optional tensors in the base class, which ours never leaves unset once it is in use
    values: Any

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; returns all keys and values so far as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.replace(key_states, value_states)
            return self.keys, self.values
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self.replace(self.keys, self.values, end - start)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor, more: int = 0) -> None:
        """Take these as the layer's content, in a buffer with room for `more` + SPARE columns."""
        columns = keys.shape[-2]
        self._room = []
        for states in (keys, values):
            rows, heads, _, width = states.shape
            room = states.new_zeros(rows, heads, columns + more + SPARE, width)
            room[:, :, :columns] = states
            self._room.append(room)
        self.keys, self.values = (room[:, :, :columns] for room in self._room)


def new_cache(model: PreTrainedModel) -> Cache:
    """An empty cache; roomy where the model attends to everything before it in every layer."""
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def can_change_rows(cache: Cache) -> bool:
    """Whether rows may leave and join (full attention in every layer)."""
    return bool(cache.layers) and all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def spread(cache: Cache, rows: int, room: int) -> Cache:
    """A copy of a one-row cache for this many rows, with room for more columns."""
    copy = DynamicCache()
    copy.layers = []
    for layer in _layers(cache):
        new = RoomyLayer()
        new.lazy_initialization(layer.keys, layer.values)
        keys, values = (states.expand(rows, -1, -1, -1) for states in (layer.keys, layer.values))
        new.replace(keys, values, room)
        copy.layers.append(new)
    return copy


def _layers(cache: Cache) -> list[Any]:
    return list(cache.layers)


def select(cache: Cache, rows: torch.Tensor, drop: int) -> None:
    """Keep these rows, and drop that many columns on the left."""
    for layer in _layers(cache):
        layer.replace(layer.keys[rows, :, drop:], layer.values[rows, :, drop:])


def join(cache: Cache, other: Cache) -> None:
    """Append another cache's rows, padding the shorter of the two on the left."""
    for layer, new in zip(_layers(cache), _layers(other), strict=True):
        columns = max(layer.keys.shape[-2], new.keys.shape[-2])
        keys = torch.cat([_pad(layer.keys, columns), _pad(new.keys, columns)])
        values = torch.cat([_pad(layer.values, columns), _pad(new.values, columns)])
        layer.replace(keys, values)


def _pad(states: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[-2], 0))
