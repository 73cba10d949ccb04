"""Flows of zuko as layers: their own density, and no trace in torch's globals."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flow_laws import close, round_trip
from flow_table import DOUBLE, HIDDEN, normal_log_density, shaken

from ppl_vae.flows import from_zuko
from ppl_vae.flows.zuko_layer import import_zuko

zuko = import_zuko()

FLOWS = {
    "NSF": (lambda: zuko.flows.NSF(3, transforms=2, bins=4, hidden_features=HIDDEN), 1e-9),
    "MAF": (lambda: zuko.flows.MAF(3, transforms=2, hidden_features=HIDDEN), 1e-9),
    "NICE": (lambda: zuko.flows.NICE(3, transforms=2, hidden_features=HIDDEN), 1e-9),
    "NAF": (lambda: zuko.flows.NAF(3, transforms=1, hidden_features=HIDDEN), 1e-5),  # its inverse is a bisection
    "CNF": (lambda: zuko.flows.CNF(3, hidden_features=HIDDEN), 1e-3),  # an integrator of tolerance 1e-6 a step
}


@pytest.mark.parametrize("name", FLOWS)
def test_the_contribution_is_that_of_the_flows_density(name):
    make, tolerance = FLOWS[name]
    torch.manual_seed(0)
    flow = make().double()
    layer = shaken(from_zuko(flow), size=0.05)
    assert layer.shape_in == (3,)
    x = torch.randn(6, 3, dtype=DOUBLE)
    z, contribution = layer.encode(x)
    close(normal_log_density(z) + contribution, flow().log_prob(x), tolerance)
    round_trip(layer, x, torch.randn(6, 3, dtype=DOUBLE), tolerance)


def test_a_conditional_flow():
    layer = from_zuko(lambda zuko: zuko.flows.MAF(3, context=2, transforms=1), context_dim=2, shape=3)
    x, context = torch.randn(4, 5, 3), torch.randn(5, 2)
    z, contribution = layer.encode(x, context)
    assert z.shape == (4, 5, 3) and contribution.shape == (4, 5)
    assert not torch.allclose(layer.encode(x, context + 1)[1], contribution)


def test_an_elementwise_transformation_is_summed_over_the_event():
    def build(zuko):
        return zuko.lazy.UnconditionalTransform(
            zuko.transforms.MonotonicAffineTransform, torch.zeros(3), torch.tensor([0.1, 0.2, 0.3])
        )

    layer = from_zuko(build, shape=3)
    x = torch.randn(5, 3)
    z, contribution = layer.encode(x)
    assert contribution.shape == (5,)
    torch.testing.assert_close(contribution, (z / x).log().sum(-1))


def test_the_parameters_are_those_of_the_transformation():
    flow = FLOWS["MAF"][0]()
    layer = from_zuko(flow)
    assert {id(p) for p in layer.parameters()} == {id(p) for p in flow.transform.parameters()}


def test_building_one_leaves_validation_as_it_was():
    """In a fresh process, where zuko has not been imported yet."""
    script = """
import torch
from ppl_vae.flows import from_zuko
from_zuko(lambda zuko: zuko.flows.NICE(2))
assert torch.distributions.Distribution._validate_args is True
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=fresh_environment())
    # Negative twin: zuko's import does do it.
    assert "\nDistribution._validate_args = False\n" in inspect.getsource(zuko.distributions)


def fresh_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
