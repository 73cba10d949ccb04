"""The common call of models and guides stands in their bases."""

from __future__ import annotations

import inspect

import pytest
import torch

from ppl_vae import guides, models

MODELS = [models.VAE, models.DiscreteVAE, models.MixtureVAE, models.SemiSupervisedVAE, models.FlowModel]
GUIDES = [
    guides.AmortizedNormal,
    guides.AmortizedFlow,
    guides.AmortizedCodes,
    guides.FlowGuide,
    guides.SemiSupervisedGuide,
    guides.EnumeratedCategorical,
    guides.RelaxedCategorical,
    guides.SampledCategorical,
]


@pytest.mark.parametrize("kind", [*MODELS, *GUIDES, guides.MeanField, models.Energy])
def test_everything_is_called_alike(kind):
    """By ``inspect``, as a pair reads what it may give: x by position, the rest by name."""
    parameters = inspect.signature(kind.forward).parameters
    assert list(parameters)[:2] == ["self", "x"]
    assert set(parameters) - {"index"} == {"self", "x", "y", "mask", "num_samples"}
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])


@pytest.mark.parametrize("kind", MODELS)
def test_models_read_it_once(kind):
    assert kind.forward is models.Model.forward


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_read_it_once(kind):
    assert kind.forward is guides.AmortizedGuide.forward


class Named(models.Model):
    def sample_sites(self, x, y, mask, size):
        return torch.full((size,), 7.0)


def test_a_model_counts_its_rows_and_errors_have_its_name():
    assert Named()(torch.zeros(3, 2)).shape == (3,)
    assert Named()(num_samples=4).shape == (4,)
    with pytest.raises(ValueError, match="Named: x or num_samples is required, got neither"):
        Named()()
    with pytest.raises(ValueError, match="Named: num_samples must be 3"):
        Named()(torch.zeros(3, 2), num_samples=4)


def test_a_base_alone_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Model: a model must define sample_sites"):
        models.Model()(torch.zeros(1))
    with pytest.raises(NotImplementedError, match="AmortizedGuide: a guide must define sample_sites"):
        guides.AmortizedGuide()(torch.zeros(1))
    with pytest.raises(ValueError, match="AmortizedGuide: data x .* is required, got None"):
        guides.AmortizedGuide()()
