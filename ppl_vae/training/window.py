"""A stretch of a run with one rate: the means of its iterates, a sketch of their path, the objective of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import generator

__all__ = ["Means", "Sketch", "Window"]

LOOKS = 100
"""So many iterates of a window enter its means: those between them are much like them, and cost time."""
COORDINATES = 64
"""A sketch has no more numbers than this, however many parameters there are."""


class Sketch:
    """A few numbers that move when parameters do: the parameters themselves, or sums of them with random signs.

    Source: Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002 (the count sketch).
    """

    def __init__(self, leaves: Iterable[Tensor], seed: int) -> None:
        self._leaves = list(leaves)
        size = sum(leaf.numel() for leaf in self._leaves)
        self._places: tuple[Tensor, Tensor] | None = None
        if size > COORDINATES:
            source = generator(seed, "sketch")
            place = torch.randint(COORDINATES, (size,), generator=source)
            sign = torch.randint(2, (size,), generator=source).to(torch.float32) * 2 - 1
            device = self._leaves[0].device
            self._places = place.to(device), sign.to(device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The numbers now, (K,)."""
        flat = torch.cat([leaf.detach().reshape(-1) for leaf in self._leaves])
        if self._places is None:
            return flat
        place, sign = self._places
        return flat.new_zeros(COORDINATES).index_add_(0, place, sign.to(flat) * flat)


class Means:
    """The mean of tensors over time; what never moves keeps every bit."""

    def __init__(self) -> None:
        self.count, self.tensors = 0, dict[str, Tensor]()

    @torch.no_grad()
    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of now."""
        self.count += 1
        for name, tensor in tensors.items():
            if name not in self.tensors:
                self.tensors[name] = tensor.detach().clone()
            else:
                mean = self.tensors[name]  # an infinite one stays so
                mean.copy_(torch.where(mean == tensor, mean, mean.lerp(tensor.detach(), 1 / self.count)))

    def with_(self, other: Means) -> dict[str, Tensor]:
        """The means over the time of both."""
        share = other.count / (self.count + other.count)
        pairs = {name: (mean, other.tensors[name]) for name, mean in self.tensors.items()}
        return {name: torch.where(one == two, one, one.lerp(two, share)) for name, (one, two) in pairs.items()}

    def state(self) -> dict[str, Any]:
        """A plain tree."""
        return {"count": self.count, "tensors": dict(self.tensors)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Means:
        """The means whose :meth:`state` this is."""
        means = cls()
        means.count = int(state["count"])
        means.tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}
        return means


class Window:
    """A stretch of ``length`` steps from step ``begin`` on.

    Attributes:
        first, second: the means of the iterates in its two halves.
    """

    def __init__(self, begin: int, length: int) -> None:
        self.begin, self.length = begin, length
        self.first, self.second = Means(), Means()
        self._objective: list[Tensor] = []
        self._path: list[Tensor] = []

    @property
    def end(self) -> int:
        """The number of steps with which it is over."""
        return self.begin + self.length

    def add(self, step: int, objective: Tensor, tensors: Mapping[str, Tensor], sketch: Sketch) -> None:
        """Take step number ``step`` (of those made in all); what is kept stays on the device."""
        self._objective.append(objective)
        made = step - self.begin
        if made % max(1, self.length // LOOKS) == 0:
            (self.first if 2 * made <= self.length else self.second).add(tensors)
            self._path.append(sketch())

    def mean(self) -> dict[str, Tensor]:
        """The mean of the iterates."""
        return self.first.with_(self.second)

    def objective(self) -> np.ndarray:
        """The objective before each step, nats per datum, (T,)."""
        return _numbers(self._objective)

    def path(self) -> np.ndarray:
        """The sketch of the iterates, (T', K)."""
        return _numbers(self._path)

    def state(self) -> dict[str, Any]:
        """A plain tree."""
        return {
            "begin": self.begin,
            "length": self.length,
            "halves": [self.first.state(), self.second.state()],
            "series": [torch.from_numpy(self.objective()), torch.from_numpy(self.path())],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Window:
        """The window whose :meth:`state` this is."""
        window = cls(int(state["begin"]), int(state["length"]))
        window.first, window.second = map(Means.of, state["halves"])
        window._objective, window._path = (list(series.unbind()) for series in state["series"])
        return window


def _numbers(waiting: list[Tensor]) -> np.ndarray:
    if not waiting:
        return np.zeros(0)
    return torch.stack([value.to(torch.float64) for value in waiting]).cpu().numpy()
