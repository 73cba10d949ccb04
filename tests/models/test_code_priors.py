"""Laws of priors over codes, over one table: a new prior is one entry."""

from __future__ import annotations

import inspect

import pytest
import torch

from ppl_vae.models import priors
from ppl_vae.models.priors import CodePrior, Learned, Uniform

Z_MAX = 4.5
PRIORS = {"uniform": Uniform, "learned": Learned}


@pytest.fixture(params=PRIORS)
def kind(request):
    return PRIORS[request.param]


@pytest.fixture
def prior(kind):
    """A prior that has been trained a little."""
    torch.manual_seed(0)
    made = kind(3, 4).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def all_codes():
    return torch.cartesian_prod(*[torch.arange(4)] * 3)


def test_every_prior_over_codes_is_in_the_table():
    classes = [c for c in vars(priors).values() if inspect.isclass(c) and issubclass(c, CodePrior)]
    assert set(classes) - {CodePrior} == set(PRIORS.values())


def test_shapes_and_types(prior):
    p_c = prior()
    assert (p_c.batch_shape, p_c.event_shape) == ((), (3,))
    assert p_c.sample((2, 5)).shape == (2, 5, 3)
    assert p_c.sample().dtype == torch.long
    assert p_c.expand([2, 5]).log_prob(p_c.sample((2, 5))).dtype == torch.float64


def test_the_probabilities_sum_to_one(prior):
    total = prior().log_prob(all_codes()).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-10)


def test_samples_have_the_probabilities(prior):
    torch.manual_seed(1)
    draws = prior().sample((20_000,))
    exact = prior().log_prob(all_codes()).exp().detach()
    number = (draws * torch.tensor([16, 4, 1])).sum(-1)
    found = torch.bincount(number, minlength=64) / len(draws)
    spread = (exact * (1 - exact) / len(draws)).sqrt()
    assert ((found - exact) / spread).abs().max() < Z_MAX
    assert ((1.3 * found - exact) / spread).abs().max() > Z_MAX  # negative twin


def test_gradients_reach_learned_probabilities():
    prior = Learned(3, 4)
    prior().log_prob(all_codes()[:5]).sum().backward()
    assert prior.logits.grad.abs().max() > 0


def test_a_new_prior_is_uniform(kind):
    expected = torch.full((64,), 1 / 64)
    torch.testing.assert_close(kind(3, 4)().log_prob(all_codes()).exp().detach(), expected)


def test_one_without_sizes_stands_for_any(kind):
    template = kind()
    one, two = template.sized(3, 4), template.sized(2, 5)
    assert (one().event_shape, two().event_shape) == ((3,), (2,))
    assert template.num_latents is None
    assert one.sized(2, 5) is one
    assert repr(template) == f"{kind.__name__}()" and repr(one) == f"{kind.__name__}(3, 4)"
    with pytest.raises(ValueError, match=r"logits must be .* got \(0, 0\)"):
        template()


def test_what_there_is_to_save():
    assert not Uniform(3, 4).state_dict()
    assert list(Learned(3, 4).state_dict()) == ["logits"]


@pytest.mark.parametrize("sizes", [(3, None), (None, 3), (0, 3), (3, 1)])
def test_errors(kind, sizes):
    message = f"{kind.__name__}: num_latents >= 1 and num_classes >= 2, or neither, .* got num_latents={sizes[0]}"
    with pytest.raises(ValueError, match=message):
        kind(*sizes)
