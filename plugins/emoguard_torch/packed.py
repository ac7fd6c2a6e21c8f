"""Reads and steers one packed row of the tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from emoguard_torch.steer import Kernel, Layer, intervene
from emoguard_torch.tensors import hidden_state


@dataclass(frozen=True)
class Span:
    """The tokens of one sequence in a packed row.

    They lie at places `start` to `start + length` of the row, and at positions `past` to
    `past + length` of their sequence. `is_read` says that a token is chosen from the last one.
    `steered` is the first position of the sequence that its plan moves, None without a plan.
    """

    start: int
    past: int
    length: int
    is_read: bool
    steered: int | None = None

    @property
    def last(self) -> int:
        """Return the place of the last token."""
        return self.start + self.length - 1

    def moved(self) -> range:
        """Return the places that the plan moves."""
        if self.steered is None:
            return range(0)
        return range(self.start + max(self.steered - self.past, 0), self.start + self.length)


@dataclass(frozen=True, eq=False)
class Places:
    """Where a packed row of the tokens of `spans` is read and moved.

    `read` (slots,) are the places that tokens are chosen from, one for each span that is read.
    `moved` (n,) are the places to move, `owners` (n,) says which plan moves each: the number of its
    span among those with a plan.
    """

    spans: Sequence[Span]
    read: torch.Tensor
    moved: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, spans: Sequence[Span], device: Any) -> Places:
        """Return the places of spans, on `device`."""
        moved = [span.moved() for span in spans if span.steered is not None]
        owners = [owner for owner, places in enumerate(moved) for _ in places]
        read = [span.last for span in spans if span.is_read]
        return cls(
            spans,
            read=torch.tensor(read, dtype=torch.long, device=device),
            moved=torch.tensor([p for places in moved for p in places], device=device).long(),
            owners=torch.tensor(owners, dtype=torch.long, device=device),
        )

    def moves(self) -> list[int | None]:
        """Return which of `moved` each read place is, None for one that is not moved."""
        where = {place: number for number, place in enumerate(self.moved.tolist())}
        return [where.get(span.last) for span in self.spans if span.is_read]


def steer_at(layer: Layer, output: Any, places: Places) -> Any:
    """Return a block's output with the places that plans own moved; all others keep their bits.

    `layer` has a row for each plan; its `moves` (n, 3) have one for each place that is moved.
    """
    whole = hidden_state(output)
    at = places.moved.to(whole.device)
    packed = whole.index_copy(1, at, move(whole[0, at], layer, places.owners)[None])
    return (packed, *output[1:]) if isinstance(output, tuple) else packed


def move(h: torch.Tensor, layer: Layer, owners: torch.Tensor) -> torch.Tensor:
    """Return residuals (n, hidden) moved, each by the row of `layer` that `owners` (n,) names."""
    if layer.marks is not None and h.dtype is not torch.float64:
        return _on_cpu(h, layer, owners)
    return _on_device(h, layer, owners.to(h.device))


def _on_cpu(h: torch.Tensor, layer: Layer, owners: torch.Tensor) -> torch.Tensor:
    """Move residuals (n, hidden) one by one, as `steer` does."""
    moved = h.detach().float().numpy()
    movers = layer.movers(h.dtype)
    layer.marks.fill(0)
    for place, owner in enumerate(owners.tolist()):
        mover = movers[owner]
        if mover is None:
            continue
        each = mover(moved[place])
        layer.marks[place] = each.dose, each.clipped, each.faulted
        if each.h is not None:
            moved[place] = each.h
    return torch.from_numpy(moved).to(h.dtype)


def _on_device(h: torch.Tensor, layer: Layer, owners: torch.Tensor) -> torch.Tensor:
    """Move the same residuals all at once."""
    own = replace(
        layer,
        shift=layer.shift[owners],
        low=layer.low[owners],
        high=layer.high[owners],
        budget=layer.budget[owners],
        rows=layer.rows[owners],
    )
    move: Kernel = intervene
    if layer.fused is not None and h.dtype is not torch.float64:
        move = layer.fused
    return move(h[:, None], own, own.rows)[:, 0]
