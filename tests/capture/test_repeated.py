"""Calls that become a graph after a while, and those that stay what they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_vae.capture.repeated import Repeated
from ppl_vae.capture.simplify import simplify
from ppl_vae.capture.trace import capture


def drawn(x):
    """A draw, a gradient, and what is the same in every row."""
    v = x.detach().requires_grad_()
    scale = torch.linspace(0.5, 1.5, 3).expand(4, 3)
    with torch.enable_grad():
        value = torch.distributions.Normal(v, scale, validate_args=False).log_prob(torch.randn(4, 3)).sum(-1)
        (gradient,) = torch.autograd.grad(value.sum(), v)
    return [value.detach(), gradient]


def calls(fn, number: int, **options):
    repeated = Repeated(fn, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [repeated(torch.full((4, 3), float(i))) for i in range(number)]
        after = torch.rand(())
    return repeated, found, after


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_values_and_draws_are_those_of_the_function(patience):
    repeated, found, after = calls(drawn, 8, patience=patience)
    assert repeated.is_graph
    plain, expected, then = calls(drawn, 8, patience=100)
    assert not plain.is_graph
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.equal(after, then)


def test_a_function_that_looks_at_values_stays():
    repeated, found, _ = calls(lambda x: [x if x.sum() > 10 else -x], 6, patience=1)
    assert not repeated.is_graph
    assert "looks at the value" in repeated.reason
    assert [float(value[0, 0]) for (value,) in found] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_function_that_changes_a_tensor_stays():
    total = torch.zeros(4, 3)

    def counted(x):
        total.add_(x)
        return [total.clone()]

    repeated, found, _ = calls(counted, 6, patience=1)
    assert not repeated.is_graph
    assert [float(value[0, 0]) for (value,) in found] == [0.0, 1.0, 3.0, 6.0, 10.0, 15.0]


def test_a_function_that_counts_in_python_is_found_out():
    seen = []

    def counted(x):
        seen.append(1)
        return [x * len(seen)]

    repeated, found, _ = calls(counted, 6, patience=1)
    assert repeated.reason == "the graph gives other numbers"
    assert [float(value[0, 0]) for (value,) in found] == [0.0, 2.0, 6.0, 12.0, 20.0, 30.0]


def test_other_shapes_are_other_calls():
    repeated = Repeated(lambda x: [x.sum(0)], patience=1)
    for size in (2, 3, 2, 3, 2, 3, 2):
        assert float(repeated(torch.ones(size))[0]) == size
    assert repeated.is_graph


def test_a_simpler_graph_has_the_same_numbers():
    net = nn.Linear(3, 2)

    def fn(x):
        wide = net.weight.expand(5, 2, 3)
        unused = torch.arange(7)  # noqa: F841
        return [(wide.exp() * 2 + 1).log() + x.sum(), torch.randn(2)]

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        values, graph = capture(fn, [torch.ones(3)])
        before = graph.num_nodes
        simplify(graph.module)
        torch.manual_seed(0)
        again = graph([torch.ones(3)])
    assert graph.num_nodes < before
    assert all(map(torch.equal, values, again))
    small = [node for node in graph.module.graph.nodes if "exp.default" in str(node.target)]
    assert small and small[0].args[0].op == "placeholder"
