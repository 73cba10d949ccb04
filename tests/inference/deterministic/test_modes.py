"""Two climbs as one."""

from __future__ import annotations

import math

import torch

from ppl_vae.inference.deterministic.modes import climb


class Bowl:
    """A normal with sds 1 and 3 around (1, 2), log Z = 0."""

    block = 100

    def at(self, u: torch.Tensor) -> torch.Tensor:
        z = (u - torch.tensor([1.0, 2.0]).double()) / torch.tensor([1.0, 3.0]).double()
        return -0.5 * z.square().sum(-1) - math.log(3.0) - math.log(2 * math.pi)

    def heights(self, u: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.at(u)


def test_joined_climbs_hold_the_starts_of_both_in_order():
    starts = torch.tensor([[5.0, 5.0], [0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    first, second = climb(Bowl(), starts[:1]), climb(Bowl(), starts[1:])
    both, at_once = first.joined(second), climb(Bowl(), starts)
    assert torch.allclose(both.u, at_once.u) and both.arrived.tolist() == [True] * 3
    assert torch.allclose(both.log_mass, torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert len(both.path[0]) == len(first.path[0]) + len(second.path[0]) == len(both.path[1])
