"""The guides of codes as plain Pyro guides: sites, exact sums, relaxed draws, errors."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from ppl_vae.distributions import Codes, RelaxedCodes, one_hot
from ppl_vae.guides import EnumeratedCategorical, RelaxedCategorical, SampledCategorical
from ppl_vae.models import DiscreteVAE
from ppl_vae.models.priors import Learned
from ppl_vae.nn import MLP, ConvEncoder

M, K, N = 3, 4, 7
GUIDES = {
    "sampled": SampledCategorical,
    "enumerated": EnumeratedCategorical,
    "relaxed": RelaxedCategorical,
    "straight through": lambda *a, **k: RelaxedCategorical(*a, straight_through=True, temperature=0.5, **k),
}
CAN_FACTORIZE = {"sampled": SampledCategorical, "enumerated": EnumeratedCategorical}


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture(params=GUIDES)
def guide(request):
    torch.manual_seed(0)
    return GUIDES[request.param](MLP(5, M * K), num_latents=M, num_classes=K).double()


@pytest.fixture
def x():
    return torch.randn(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def trace(guide, x, **kwargs):
    found = poutine.trace(guide).get_trace(x, **kwargs)
    found.compute_log_prob()
    return found


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_site_plate_and_shapes(guide, x):
    for mode in (True, False):
        site = trace(guide.train(mode), x).nodes["c"]
        assert site["value"].shape == (N, M) and site["value"].dtype == torch.long
        assert site["log_prob"].shape == (N,)
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, N)


def test_encode_is_the_distribution_of_the_discrete_model(guide, x):
    for mode in (True, False):
        q_c = guide.train(mode).encode(x)
        assert type(q_c) is Codes
        close(q_c.probs, guide.encoder(x).unflatten(-1, (M, K)).softmax(-1))
        site = trace(guide, x).nodes["c"]
        close(site["log_prob"], q_c.log_prob(site["value"].clone()))


def test_particles(guide, x):
    def plated(x):
        with pyro.plate("particles", 3, dim=-2):
            return guide(x)

    site = trace(plated, x).nodes["c"]
    assert site["value"].shape == (3, N, M)
    close(site["log_prob"], guide.encode(x).log_prob(site["value"].clone()))
    assert not torch.equal(site["value"][0], site["value"][1])


@pytest.mark.parametrize("name", CAN_FACTORIZE)
def test_a_factorized_guide_stands_in_two_plates(name, x):
    guide = CAN_FACTORIZE[name](MLP(5, M * K), num_latents=M, num_classes=K, factorized=True).double()
    site = trace(guide, x).nodes["c"]
    assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, N), ("latents", -2, M)]
    assert site["value"].shape == (M, N)
    close(site["log_prob"].sum(0), guide.encode(x).log_prob(site["value"].T))


def test_unobserved_entries_do_not_matter_even_nan(guide, x):
    mask = torch.rand(x.shape) < 0.6
    holes = torch.where(mask, x, torch.nan)
    assert torch.equal(guide.encode(holes, mask=mask).logits, guide.encode(torch.where(mask, x, 9.0), mask=mask).logits)
    assert trace(guide, holes, mask=mask).nodes["c"]["log_prob"].isfinite().all()


def test_images_are_encoded():
    guide = SampledCategorical(ConvEncoder((1, 8, 8), M * K), num_latents=M, num_classes=K)
    assert guide(torch.zeros(N, 1, 8, 8)).shape == (N, M)


def test_parameters_are_found_by_pyro(guide, x):
    found = poutine.trace(guide, param_only=True).get_trace(x)
    params = {site["value"] for site in found.nodes.values() if site["type"] == "param"}
    assert params == set(guide.parameters())


# -- exact sums --------------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """A small nonlinear decoder of its own for each latent, (B, M, K) to (B, M, 2)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(M, K, 2)), nn.Parameter(torch.randn(M, 2))

    def forward(self, codes):
        return (torch.einsum("bmk,mkd->bmd", codes, self.weight) + self.bias).sin()


def enumerable_pair(**kwargs):
    """A model of x (N, 6) and its guide."""
    torch.manual_seed(0)
    sizes = {"num_latents": M, "num_classes": K}
    decoder = MLP(M * (kwargs.get("embedding") or K), 6, hidden=(9,))
    model = DiscreteVAE(decoder, likelihood="normal", prior=Learned(), **sizes, **kwargs).double()
    nn.init.normal_(model.prior.logits)
    return model, EnumeratedCategorical(MLP(6, M * K, hidden=(9,)), **sizes).double()


def factorized_pair():
    """The same for x (N, M, 2)."""
    torch.manual_seed(0)
    sizes = {"num_latents": M, "num_classes": K, "factorized": True}
    model = DiscreteVAE(Parts(), likelihood="normal", prior=Learned(), **sizes).double()
    nn.init.normal_(model.prior.logits)
    encoder = nn.Sequential(nn.Flatten(), MLP(2 * M, M * K, hidden=(9,)))
    return model, EnumeratedCategorical(encoder, **sizes).double()


def brute_force(model, guide, x):
    """The ELBO by a loop over all codes and Categoricals latent by latent: (N,) nats."""
    log_q = guide.encoder(x).unflatten(-1, (M, K)).log_softmax(-1)
    log_p = model.prior.logits.log_softmax(-1)
    total = 0.0
    for code in itertools.product(range(K), repeat=M):
        c = torch.tensor(code)
        q = sum(log_q[:, m, c[m]] for m in range(M))
        p = sum(log_p[m, c[m]] for m in range(M))
        hot = torch.nn.functional.one_hot(c, K).double()
        if model.factorized:
            output = model.decoder(hot.unsqueeze(0))
        else:
            rows = hot if model.table is None else torch.stack([model.table[m, c[m]] for m in range(M)])
            output = model.decoder(rows.flatten().unsqueeze(0))
        likelihood = model.likelihood.entries(output).log_prob(x).flatten(1).sum(1)
        total = total + q.exp() * (likelihood + p - q)
    return total


PAIRS = {
    "joint": (enumerable_pair, 1, (6,)),
    "embedding": (lambda: enumerable_pair(embedding=2), 1, (6,)),
    "factorized": (factorized_pair, 2, (M, 2)),
}


def gradients(loss, *modules):
    return torch.autograd.grad(loss, [p for module in modules for p in module.parameters()])


@pytest.mark.parametrize("name", PAIRS)
def test_pyros_enumeration_is_the_sum_over_all_codes(name):
    make, nesting, event = PAIRS[name]
    model, guide = make()
    x = torch.randn(N, *event, dtype=torch.float64)
    loss = TraceEnum_ELBO(max_plate_nesting=nesting).differentiable_loss(model, guide, x)
    exact = -brute_force(model, guide, x).sum()
    close(loss, exact)
    for a, b in zip(gradients(loss, model, guide), gradients(exact, model, guide), strict=True):
        close(a, b)


def test_the_twin_another_prior_is_seen():
    model, guide = enumerable_pair()
    x = torch.randn(N, 6, dtype=torch.float64)
    exact = -brute_force(model, guide, x).sum()
    nn.init.zeros_(model.prior.logits)
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x) != pytest.approx(exact.item(), abs=1e-3)


def test_factorized_and_joint_enumeration_are_one_number():
    """A decoder that factorizes may be called whole: the same bound at K^M in place of K."""
    model, guide = factorized_pair()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model.decoder

        def forward(self, codes):
            return self.parts(codes.unflatten(-1, (M, K)))

    sizes = {"num_latents": M, "num_classes": K}
    whole = DiscreteVAE(Whole(), likelihood="normal", prior=model.prior, **sizes).double()
    joint = EnumeratedCategorical(guide.encoder, **sizes)
    x = torch.randn(N, M, 2, dtype=torch.float64)
    one = TraceEnum_ELBO(max_plate_nesting=1).loss(whole, joint, x)
    other = TraceEnum_ELBO(max_plate_nesting=2).loss(model, guide, x)
    assert one == pytest.approx(other, abs=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_drawn_codes_have_the_exact_bound_on_average(name):
    make, nesting, event = PAIRS[name]
    model, guide = make()
    x = torch.randn(1, *event, dtype=torch.float64)
    exact = brute_force(model, guide, x).item()
    copies = x.expand(20_000, *event)
    with torch.no_grad():
        guided = trace(guide, copies)
        modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(copies)
        modelled.compute_log_prob()
        each = sum(modelled.nodes[s]["log_prob"] for s in ("c", "x")) - guided.nodes["c"]["log_prob"]
    each = each.sum(0) if nesting == 2 else each
    error = each.std() / len(each) ** 0.5
    assert abs(each.mean() - exact) < 4.5 * error
    assert abs(each.mean() - exact - 0.1 * each.std()) > 4.5 * error  # negative twin


def test_the_mark_says_how_many_rows_at_once(x):
    guide = EnumeratedCategorical(MLP(5, M * K), num_latents=M, num_classes=K, max_rows=100).double()
    assert trace(guide, x).nodes["c"]["infer"] == {"enumerate": "parallel", "max_rows": 100}
    assert (
        "enumerate" not in trace(SampledCategorical(guide.encoder, num_latents=M, num_classes=K), x).nodes["c"]["infer"]
    )


# -- relaxed draws -----------------------------------------------------------------------------------------------------


def relaxed(**kwargs):
    torch.manual_seed(0)
    return RelaxedCategorical(MLP(6, M * K, hidden=(9,)), num_latents=M, num_classes=K, **kwargs).double()


def test_in_training_it_is_relaxed_and_in_evaluation_discrete():
    guide, x = relaxed(), torch.randn(N, 6, dtype=torch.float64)
    site = trace(guide, x).nodes["c"]
    assert isinstance(site["fn"], RelaxedCodes) and site["fn"].has_rsample
    assert one_hot(site["value"], K).requires_grad
    site = trace(guide.eval(), x).nodes["c"]
    assert type(site["fn"]) is Codes
    assert not one_hot(site["value"], K).requires_grad


def test_only_the_decoder_sees_the_relaxed_code():
    model, guide = enumerable_pair()[0], relaxed(temperature=5.0)
    x = torch.randn(N, 6, dtype=torch.float64)
    guided = trace(guide, x)
    modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(x)
    modelled.compute_log_prob()
    value = guided.nodes["c"]["value"]
    hard = value.clone()
    close(modelled.nodes["c"]["log_prob"], model.prior().log_prob(hard))
    close(guided.nodes["c"]["log_prob"], guide.encode(x).log_prob(hard))
    close(modelled.nodes["x"]["log_prob"], model.decode(value).log_prob(x))
    assert (modelled.nodes["x"]["log_prob"] - model.decode(hard).log_prob(x)).abs().min() > 1e-3


def test_the_divergence_is_in_closed_form():
    model, guide = enumerable_pair()[0], relaxed(temperature=0.7)
    x = torch.randn(N, 6, dtype=torch.float64)
    torch.manual_seed(1)
    loss = TraceMeanField_ELBO().differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    q = guide.encode(x)
    log_q = q.logits
    value = RelaxedCodes(guide.encoder(x).unflatten(-1, (M, K)), temperature=guide.temperature).rsample()
    kl = (log_q.exp() * (log_q - model.prior.logits.log_softmax(-1))).sum()
    expected = kl - model.decode(value).log_prob(x).sum()
    close(loss, expected)
    for a, b in zip(gradients(loss, model, guide), gradients(expected, model, guide), strict=True):
        close(a, b)


def bias_and_spread(temperature, replicates=20_000):
    """Mean gradient by one logit of a free guide on one datum, and its standard error; and the exact gradient."""
    model, _ = enumerable_pair()
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = torch.randn(M, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = start.expand(replicates, M, K).clone().requires_grad_()
    value = RelaxedCodes(rows, temperature=torch.tensor(temperature).double()).rsample()
    (each,) = torch.autograd.grad(model.decode(value).log_prob(x).sum(), rows)
    leaf = start.clone().requires_grad_()
    q = Codes(leaf)
    every = q.enumerate_support()
    (exact,) = torch.autograd.grad((q.log_prob(every).exp() * model.decode(every).log_prob(x)).sum(), leaf)
    return each.mean(0) - exact, each.std(0) / replicates**0.5


def test_the_gradient_is_biased_and_the_bias_falls_with_the_temperature():
    torch.manual_seed(4)
    found = {temperature: bias_and_spread(temperature) for temperature in (1.0, 0.1)}
    bias, error = found[1.0]
    assert (bias / error).abs().max() > 4.5
    assert found[0.1][0].norm() < 0.5 * bias.norm()


def test_temperatures_follow_their_schedule_in_a_tensor():
    guide = relaxed(temperature=lambda step: max(0.5, 1 - 0.1 * step))
    held = guide.temperature
    assert held.item() == 1.0
    guide.begin_step(3)
    assert held.item() == pytest.approx(0.7)
    guide.begin_step(30)
    assert guide.temperature is held and held.item() == 0.5
    assert held.dtype == torch.float64 and "temperature" in guide.state_dict()
    fixed = relaxed(temperature=0.3)
    fixed.begin_step(100)
    assert fixed.temperature.item() == pytest.approx(0.3)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("straight_through", [False, True])
def test_pyros_svi_learns(elbo, straight_through):
    """Data in four clear clusters, one latent: the guide learns to tell them apart."""
    torch.manual_seed(0)
    x = 4 * torch.eye(4)[torch.randint(4, (100,))] + 0.1 * torch.randn(100, 4)
    model = DiscreteVAE(nn.Linear(4, 4), num_latents=1, num_classes=4, likelihood="unit-normal")
    guide = RelaxedCategorical(
        nn.Linear(4, 4), num_latents=1, num_classes=4, temperature=0.7, straight_through=straight_through
    )
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    for _ in range(250):
        svi.step(x)
    guide.eval()
    exact = EnumeratedCategorical(guide.encoder, num_latents=1, num_classes=4)
    found = TraceEnum_ELBO(max_plate_nesting=1).loss(model, exact, x) / 100
    best = 0.5 * 4 * 1.8379 + 1.3863 + 0.03
    one_cluster = 0.5 * 4 * 1.8379 + 0.5 * 12
    assert found < best + 0.25 * (one_cluster - best)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_errors_of_all(name):
    make = GUIDES[name]
    kind = type(make(nn.Linear(1, 2), num_latents=1, num_classes=2)).__name__
    for call, message in [
        (
            lambda: make(nn.Linear(5, 9), num_latents=M, num_classes=K)(torch.zeros(N, 5)),
            rf"{kind}: the encoder must return \(..., 12\) for num_latents=3, num_classes=4, got \(7, 9\)",
        ),
        (lambda: make(nn.Linear(5, 12), num_latents=M, num_classes=K)(), rf"{kind}: data x \(N, ...\) is required"),
        (lambda: make(nn.Linear(5, 3), num_latents=M, num_classes=1), f"{kind}: .* num_classes >= 2 .* num_classes=1"),
        (lambda: make(nn.Linear(5, 3), num_latents=0, num_classes=K), "got num_latents=0"),
        (
            lambda: make(nn.Linear(5, 12), num_latents=M, num_classes=K)(torch.zeros(9, 5), mask=torch.ones(9).bool()),
            rf"{kind}: the mask must be boolean and \(9, 5\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: EnumeratedCategorical(nn.Linear(5, 200), num_latents=20, num_classes=10),
            r"EnumeratedCategorical: .* got 10\^20 = 1e20 joint codes; alternatives: .*RelaxedCategorical",
        ),
        (
            lambda: EnumeratedCategorical(nn.Linear(5, 12), num_latents=M, num_classes=K, max_rows=0),
            "max_rows must be at least 1, got 0",
        ),
        (lambda: relaxed(temperature=0.0), "the temperature must be positive, got 0.0 at step 0"),
        (lambda: relaxed(temperature=float("nan")), "must be positive, got nan"),
        (lambda: relaxed(temperature=lambda step: 1.0 - step).begin_step(2), "must be positive, got -1.0 at step 2"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_too_many_joint_codes_are_few_latent_by_latent():
    guide = EnumeratedCategorical(nn.Linear(5, 200), num_latents=20, num_classes=10, factorized=True)
    assert guide(torch.zeros(N, 5)).shape == (20, N)


def test_repr_says_what_it_is():
    guide = SampledCategorical(nn.Linear(5, 12), num_latents=M, num_classes=K, factorized=True)
    assert "num_latents=3, num_classes=4, factorized=True" in repr(guide)
