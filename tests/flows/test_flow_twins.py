"""Negative twins: a layer with a planted bug breaks the law that is there for it."""

from __future__ import annotations

import math

import pytest
import torch
from flow_laws import (
    gradients_reach_every_parameter,
    integrates_to_one,
    leading_dimensions,
    log_determinant,
    round_trip,
    traces,
)
from flow_table import CASES, COUNTS, DOUBLE, POSITIVE, Case, Space, instance, normal_log_density
from torch import Tensor

from ppl_vae.flows import Abs, Inverse, Layer, Sort


class Bug(Layer):
    """A layer that changes what another returns."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.shape_in, layer.shape_out)
        self.layer = layer
        self.deterministic_encode, self.deterministic_decode = layer.deterministic_encode, layer.deterministic_decode

    def _encode(self, x, context):
        return self.spoil(*self.layer.encode(x, context))

    def _decode(self, z, context):
        return self.spoil(*self.layer.decode(z, context))

    def spoil(self, value: Tensor, contribution: Tensor) -> tuple[Tensor, Tensor]:
        return value, contribution


class WrongSign(Bug):
    def spoil(self, value, contribution):
        return value, -contribution


class WrongSignOneWay(Bug):
    def _decode(self, z, context):
        x, contribution = self.layer.decode(z, context)
        return x, -contribution


class Forgotten(Bug):
    def spoil(self, value, contribution):
        return value, torch.zeros_like(contribution)


class OffByALittle(Bug):
    def _decode(self, z, context):
        x, contribution = self.layer.decode(z, context)
        return x + 1e-7, contribution


class TouchesItsNeighbours(Bug):
    def spoil(self, value, contribution):
        return value + 1e-6 * value.reshape(-1, value.shape[-1]).mean(0), contribution


class Detached(Bug):
    def spoil(self, value, contribution):
        return value.detach(), contribution.detach().requires_grad_()


class BranchesOnValues(Bug):
    def _encode(self, x, context):
        z, contribution = self.layer.encode(x, context)
        return (z + 1 if x.sum() > 0 else z), contribution


def coupling() -> Layer:
    return instance("affine coupling", grid=True)


def dequantized() -> Layer:
    return instance("round, variational noise", grid=True)


def points(seed: int = 0) -> Tensor:
    return torch.randn(20, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


LINE_TO_LINE, LINE_TO_POSITIVE, POSITIVE_TO_LINE = (
    Case(coupling),
    Case(coupling, z=POSITIVE),
    Case(coupling, x=POSITIVE),
)
# In the middle of a cell, where the noise is dense.
SHARP = Case(
    coupling,
    x=COUNTS,
    z=Space(COUNTS.draw, lambda z: normal_log_density((z - 0.5) / 0.2) - z.shape[-1] * math.log(0.2)),
)

TWINS = {
    "log-det of the wrong sign: the determinant": lambda: log_determinant(WrongSign(coupling()), points()),
    "log-det of the wrong sign: the integral": lambda: integrates_to_one(WrongSign(coupling()), LINE_TO_LINE),
    "log-det forgotten": lambda: integrates_to_one(Forgotten(coupling()), LINE_TO_LINE),
    "another sign back": lambda: round_trip(WrongSignOneWay(coupling()), points(), points(1)),
    "an inverse that is not quite one": lambda: round_trip(OffByALittle(coupling()), points(), points(1)),
    "log 2 forgotten": lambda: integrates_to_one(Forgotten(Abs(2)), LINE_TO_POSITIVE),
    "log 2 of the wrong sign": lambda: integrates_to_one(WrongSign(Abs(2)), LINE_TO_POSITIVE),
    "log 2 forgotten, in the other direction": lambda: integrates_to_one(Forgotten(Inverse(Abs(2))), POSITIVE_TO_LINE),
    "log n! forgotten": lambda: integrates_to_one(Forgotten(Sort(2)), CASES["sort"]),
    "the wrong noise": lambda: integrates_to_one(Forgotten(dequantized()), SHARP),
    "rows that touch": lambda: leading_dimensions(TouchesItsNeighbours(coupling()), points(), (5,)),
    "a gradient cut off": lambda: gradients_reach_every_parameter(Detached(coupling()), points(), points(1)),
}


@pytest.mark.parametrize("twin", TWINS)
def test_the_law_sees_the_bug(twin):
    with pytest.raises(AssertionError):
        TWINS[twin]()


def test_the_law_of_tracing_sees_a_branch_on_values():
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        traces(BranchesOnValues(coupling()), points(), points(1))


def test_the_same_layers_without_a_bug_keep_the_laws():
    log_determinant(Bug(coupling()), points())
    integrates_to_one(Bug(coupling()), LINE_TO_LINE)
    integrates_to_one(Bug(Abs(2)), LINE_TO_POSITIVE)
    integrates_to_one(Bug(Inverse(Abs(2))), POSITIVE_TO_LINE)
    integrates_to_one(Bug(dequantized()), SHARP)
    round_trip(Bug(coupling()), points(), points(1))
    leading_dimensions(Bug(coupling()), points(), (5,))
    gradients_reach_every_parameter(Bug(coupling()), points(), points(1))
    traces(Bug(coupling()), points().abs(), -points().abs())
