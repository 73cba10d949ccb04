"""A step of each pair with discrete latents traces into one graph, which gives what the eager step gives."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from ppl_vae.capture.trace import capture
from ppl_vae.guides import (
    AmortizedNormal,
    EnumeratedCategorical,
    RelaxedCategorical,
    SampledCategorical,
    SemiSupervisedGuide,
)
from ppl_vae.models import DiscreteVAE, MixtureVAE, SemiSupervisedVAE
from ppl_vae.models.priors import Learned
from ppl_vae.nn import MLP

M, K, N, D = 2, 3, 8, 6
SIZES = {"num_latents": M, "num_classes": K}
ENUMERATION = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(M, K, D // M))

    def forward(self, codes):
        return torch.einsum("bmk,mkd->bmd", codes, self.weight)


class Reshaped(nn.Module):
    """A model or guide of (N, M, D / M), given (N, D)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.unflatten(1, (M, D // M)))


class Labeled(nn.Module):
    """A model or guide with labels, read off the data."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = torch.where(x[:, 0] > 0, (x[:, 1] > 0).long(), -1)
        return self.inner(x, y=y)


def discrete(guide, **kwargs):
    model = DiscreteVAE(MLP(M * K, D), likelihood="normal", prior=Learned(), **SIZES)
    return model, guide(MLP(D, M * K), **SIZES, **kwargs)


def factorized():
    model = DiscreteVAE(Parts(), likelihood="normal", factorized=True, **SIZES)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(D, M * K))
    return Reshaped(model), Reshaped(EnumeratedCategorical(encoder, factorized=True, **SIZES))


def semi_supervised(**kwargs):
    model = SemiSupervisedVAE(MLP(K + 2, D), num_classes=K, latent_dim=2, likelihood="normal")
    guide = SemiSupervisedGuide(MLP(D, K), MLP(D + K, 4), num_classes=K, latent_dim=2, auxiliary=1.0, **kwargs)
    return Labeled(model), Labeled(guide)


def mixture():
    model = MixtureVAE(MLP(2, D), latent_dim=2, num_components=K, likelihood="normal")
    return model, AmortizedNormal(MLP(D, 4), latent_dim=2)


PAIRS = {
    "sampled": (lambda: discrete(SampledCategorical), Trace_ELBO()),
    "enumerated": (lambda: discrete(EnumeratedCategorical), ENUMERATION),
    "relaxed": (lambda: discrete(RelaxedCategorical, temperature=lambda step: 1 / (1 + step)), Trace_ELBO()),
    "straight through": (lambda: discrete(RelaxedCategorical, straight_through=True), TraceMeanField_ELBO()),
    "factorized": (factorized, TraceEnum_ELBO(max_plate_nesting=2)),
    "semi-supervised": (semi_supervised, ENUMERATION),
    "semi-supervised, drawn": (lambda: semi_supervised(enumerate=False), Trace_ELBO()),
    "mixture": (mixture, ENUMERATION),
}


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_traces(name):
    make, elbo = PAIRS[name]
    torch.manual_seed(0)
    model, guide = make()
    leaves = [*model.parameters(), *guide.parameters()]

    def step(x):
        loss = elbo.differentiable_loss(model, guide, x)
        return [loss, *torch.autograd.grad(loss, leaves)]

    x = torch.randn(N, D)
    with pyro.validation_enabled(False):
        step(x)  # once eagerly: a factorized decoder is looked at
        _, graph = capture(step, [x])
        for number in (1, 2):
            if hasattr(guide, "begin_step"):
                guide.begin_step(number)
            torch.manual_seed(number)
            expected = step(number * x)
            torch.manual_seed(number)
            for a, b in zip(graph([number * x]), expected, strict=True):
                torch.testing.assert_close(a, b, check_dtype=False)  # a graph has its loss in float64
