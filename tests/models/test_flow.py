"""The theorem as a law: with its encoder as the guide, every ELBO of a flow is its log-likelihood; and what is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import ppl_vae
from ppl_vae import (
    ELBO,
    IWAE,
    VIMCO,
    Alternating,
    ImportanceWeighted,
    NaiveMonteCarlo,
    Pair,
    ReweightedWakeSleep,
    VariationalEM,
    log_evidence,
)
from ppl_vae.evidence import decomposition
from ppl_vae.flows import (
    Abs,
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Augment,
    Chain,
    ConditionalNormal,
    ElementwiseAffine,
    Inverse,
    Layer,
    LULinear,
    MaskedAutoregressive,
    NonFiniteContribution,
    Permutation,
    Planar,
    Reverse,
    Round,
    Softplus,
    SplineCoupling,
    VAELayer,
)
from ppl_vae.guides import AmortizedFlow, FlowGuide
from ppl_vae.models import VAE, FlowModel
from ppl_vae.models.priors import MixtureOfNormals
from ppl_vae.training import NonFiniteError

DOUBLE, D, N = torch.float64, 3, 12
HIDDEN = (6,)
Z_MAX = 4.5


def actnorm() -> Layer:
    layer = ActNorm(D)
    layer.initialize(torch.randn(50, D))
    return layer


FLOWS: dict[str, Callable[[], Layer]] = {
    "affine coupling": lambda: Chain([AffineCoupling(D, hidden=HIDDEN), Reverse(D), AffineCoupling(D, hidden=HIDDEN)]),
    "spline coupling": lambda: Chain([actnorm(), SplineCoupling(D, bins=4, hidden=HIDDEN), Permutation(D)]),
    "autoregressive": lambda: Chain([MaskedAutoregressive(D, hidden=HIDDEN), LULinear(D)]),
    "planar": lambda: Chain([Planar(D), Planar(D)]),
    "volume kept": lambda: Chain([AdditiveCoupling(D, hidden=HIDDEN), Reverse(D)]),
    "one layer": lambda: ElementwiseAffine(D),
}
OBJECTIVES = {
    "Trace_ELBO": Trace_ELBO(),
    "TraceMeanField_ELBO": TraceMeanField_ELBO(),
    "RenyiELBO": RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "ELBO": ELBO(),
    "ELBO, 3 particles": ELBO(num_particles=3),
    "ELBO, no closed form": ELBO(analytic_kl=False),
    "IWAE(3)": IWAE(3),
    "IWAE(3), stl": IWAE(3, gradient="stl"),
    "VIMCO(2)": VIMCO(2),
    "reweighted wake-sleep": ReweightedWakeSleep(2),
}


def made(make: Callable[[], Layer], dtype: torch.dtype = DOUBLE) -> Layer:
    """A flow with every parameter off its start."""
    torch.manual_seed(1)
    flow = make().to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def rows(dtype: torch.dtype = DOUBLE, n: int = N) -> Tensor:
    return torch.randn(n, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)).to(dtype)


def log_likelihood(flow: Layer, x: Tensor) -> Tensor:
    """log N(f(x); 0, I) + log|det J_f(x)|, the volume by automatic differentiation: nothing of the contribution."""

    def one(row: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v)[0], row, create_graph=True)
        z = flow.encode(row)[0]
        return dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum() + torch.linalg.slogdet(jacobian).logabsdet

    return torch.stack([one(row) for row in x])


def pair_of(flow: Layer, **options: object) -> Pair:
    return Pair(FlowModel(flow, **options), FlowGuide(flow))


class Stepper:
    """-sum of an objective over data, and its gradient, by Pyro's own interface, in a store of its own."""

    def __init__(self, flow: Layer) -> None:
        self.flow, self.model, self.guide = flow, FlowModel(flow), FlowGuide(flow)

    def __call__(self, objective: object, x: Tensor) -> tuple[float, list[Tensor]]:
        self.flow.zero_grad()
        with pyro.get_param_store().scope():
            loss = objective.loss_and_grads(self.model, self.guide, x)  # type: ignore[attr-defined]
        return float(loss), [parameter.grad.clone() for parameter in self.flow.parameters()]


@contextmanager
def counted(flow: Layer):
    """How often a flow is run, by direction."""
    counts = {"_encode": 0, "_decode": 0}

    def counting(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object) -> object:
            counts[name] += 1
            return method(*args)

        return run

    for name in counts:
        setattr(flow, name, counting(name, getattr(flow, name)))
    try:
        yield counts
    finally:
        for name in counts:
            delattr(flow, name)


@pytest.fixture
def own_store():
    with pyro.get_param_store().scope():
        yield


# -- the theorem -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("name", FLOWS)
def test_every_bound_is_the_log_likelihood_and_so_is_its_gradient(name, objective):
    flow, x = made(FLOWS[name]), rows()
    exact = log_likelihood(flow, x).sum()
    expected = torch.autograd.grad(exact, list(flow.parameters()))
    step = Stepper(flow)
    loss, gradients = step(objective, x)
    torch.manual_seed(77)
    again, _ = step(objective, x)
    assert loss == pytest.approx(-float(exact.detach()), rel=1e-10, abs=1e-10)
    assert again == loss  # whatever the seed
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, -want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_per_datum_and_in_single_precision(name):
    for dtype, tolerance in ((DOUBLE, 1e-10), (torch.float32, 1e-5)):
        flow, x = made(FLOWS[name], dtype), rows(dtype)
        exact = log_likelihood(flow.double(), x.double()).detach()
        draws = pair_of(flow.to(dtype)).draw(x, 3)
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(draws.log_weight, exact.expand(3, N), **close)
        assert torch.equal(draws.log_q.total, torch.zeros(3, N, dtype=DOUBLE))


def test_the_twin_of_the_theorem_a_wrong_sign_is_seen(monkeypatch):
    flow, x = doubling(), rows()
    encode = ElementwiseAffine.encode
    exact = float(log_likelihood(flow, x).detach().sum())
    assert Stepper(flow)(Trace_ELBO(), x)[0] == pytest.approx(-exact, rel=1e-10)
    monkeypatch.setattr(ElementwiseAffine, "encode", lambda self, x, c=None: (encode(self, x)[0], -encode(self, x)[1]))
    assert Stepper(flow)(Trace_ELBO(), x)[0] + exact == pytest.approx(2 * N * D * math.log(2), rel=1e-10)


def doubling() -> Layer:
    """z = 2 x."""
    flow = ElementwiseAffine(D).double()
    with torch.no_grad():
        flow.numbers.base.copy_(torch.tensor([0.0] * D + [math.log(2)] * D, dtype=DOUBLE))
    return flow


def test_a_naive_pair_of_point_masses_loses_exactly_the_log_determinant():
    x = rows()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Delta(z / 2, event_dim=1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(2 * x, event_dim=1))

    naive = -Trace_ELBO().loss(model, guide, x)
    exact = -Stepper(doubling())(Trace_ELBO(), x)[0]
    assert exact == pytest.approx(float(log_likelihood(doubling(), x).detach().sum()), rel=1e-10)
    assert exact - naive == pytest.approx(N * D * math.log(2), rel=1e-10)
    with pytest.raises(ValueError, match="a guide with a density is required"):
        log_evidence(Pair(model, guide), x)


# -- one pass ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_a_step_makes_one_pass_through_the_flow(objective):
    flow, x = made(FLOWS["affine coupling"]), rows()
    step = Stepper(flow)
    step(objective, x)  # a first look at the pair takes more
    with counted(flow) as counts:
        step(objective, x)
    anew = isinstance(objective, ReweightedWakeSleep)  # it asks log q of a z without its path
    assert counts == {"_encode": 2 if anew else 1, "_decode": 0}


def test_a_mini_batch_step_of_a_fit_makes_one_pass():
    flow = made(FLOWS["affine coupling"])
    em = VariationalEM(FlowModel(flow), FlowGuide(flow), compile=False)
    em.fit(rows(n=40), steps=1, batch_size=10, progress=False)
    with counted(flow) as counts:
        em.fit(rows(n=40), steps=8, batch_size=10, progress=False)
    assert counts == {"_encode": 8, "_decode": 0}


def test_the_twin_of_one_pass_a_z_that_carries_nothing_takes_two(monkeypatch):
    flow, x = made(FLOWS["affine coupling"]), rows()
    expected, _ = Stepper(flow)(Trace_ELBO(), x)
    monkeypatch.setattr("ppl_vae.flows.decoded.encoding_of", lambda z: None)
    with counted(flow) as counts:
        loss, _ = Stepper(flow)(Trace_ELBO(), x)
    assert counts["_encode"] == 2
    assert loss == pytest.approx(expected, rel=1e-12)


# -- a guide that is not the decoder's inverse -------------------------------------------------------------------------


def shifted(flow: Layer, by: float) -> Callable[[Tensor], None]:
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(flow.encode(x)[0] + by, event_dim=1))

    return guide


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_a_guide_that_is_not_the_inverse_is_refused(dtype):
    flow, x = made(FLOWS["affine coupling"], dtype), rows(dtype)
    limit = math.sqrt(torch.finfo(dtype).eps)
    wrong = {
        "another flow": FlowGuide(made(FLOWS["autoregressive"], dtype)),
        "a shift": shifted(flow, 20 * limit),
    }
    for guide in wrong.values():
        with pytest.raises(ValueError, match="must put z where the flow of the model encodes x to"):
            VariationalEM(FlowModel(flow), guide).fit(x, steps=1, progress=False)
    exact = log_likelihood(flow.double(), x.double()).detach()
    flow.to(dtype)
    by_hand = Pair(FlowModel(flow), shifted(flow, limit / 10))  # z by another way, within the tolerance
    torch.testing.assert_close(log_evidence(by_hand, x).value, exact, rtol=1e-3, atol=1e-3)


def test_without_validation_it_has_density_zero():
    flow, x = made(FLOWS["affine coupling"]), rows()
    with pyro.validation_enabled(False), pyro.get_param_store().scope():
        assert Trace_ELBO().loss(FlowModel(flow), shifted(flow, 0.1), x) == math.inf


def test_a_point_without_a_volume_has_no_evidence():
    """FlowGuide beside a model that does not count the volume is a point mass like any other."""
    pair = Pair(VAE(nn.Linear(D, D), latent_dim=D, likelihood="unit-normal"), FlowGuide(ElementwiseAffine(D)))
    with pytest.raises(ValueError, match="it gives 'z' a point mass"):
        log_evidence(pair, rows(torch.float32))


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_the_evidence_of_an_exact_flow_is_exact():
    flow, x = made(FLOWS["spline coupling"]), rows()
    pair, exact = pair_of(flow), log_likelihood(flow, x).detach()
    found = log_evidence(pair, x)
    torch.testing.assert_close(found.value, exact, rtol=1e-10, atol=1e-10)
    assert found.bound == "exact" and found.standard_error.abs().max() == 0 and found.khat.abs().max() == 0
    assert "exact" in repr(found)
    parts = decomposition(pair, x, num_samples=30)
    assert parts.evidence.bound == "exact" and float(parts.gap.abs().max()) < 1e-10
    torch.testing.assert_close(parts.elbo, exact, rtol=1e-10, atol=1e-10)


def test_an_exact_surjection_stays_exact():
    """x = ± |x|: half of p(|x|) on each side, and exact behind a Softplus; with a normal on the line it is a bound."""
    tail = made(lambda: AffineCoupling(D, hidden=HIDDEN))
    x = rows()
    exact = pair_of(Chain([Abs(), Inverse(Softplus()), tail]))
    assert log_evidence(exact, x).bound == "exact"
    total = log_evidence(pair_of(Chain([Inverse(Softplus(D)), tail])), x.abs()).value - D * math.log(2)
    torch.testing.assert_close(log_evidence(exact, x).value, total, rtol=1e-10, atol=1e-10)
    assert log_evidence(pair_of(Chain([Abs(), tail])), x).bound == "lower"
    assert log_evidence(pair_of(Abs(D)), x).bound == "lower"  # a normal p(z) is half on z < 0, where Abs puts none
    assert log_evidence(pair_of(Abs(D), base=dist.HalfNormal(torch.ones(D)).to_event(1)), x).bound == "exact"
    assert FlowModel(Abs(D), base=dist.Uniform(torch.zeros(D), 9.0).to_event(1)).exact
    assert not FlowModel(Abs(D), base=dist.Uniform(-torch.ones(D), 9.0).to_event(1)).exact
    assert not FlowModel(Abs(D), base=dist.Poisson(torch.ones(D)).to_event(1)).exact  # no density on the half-line


def test_a_surjection_with_draws_is_a_lower_bound_that_iwae_tightens():
    """x = |z|: p(x) is the sum over all signs of z."""
    inner = made(lambda: AffineCoupling(D, hidden=HIDDEN))
    pair, x = pair_of(Chain([Inverse(Abs(D)), inner])), rows(n=400).abs()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * D)
    z, contribution = inner.encode(signs.unsqueeze(1) * x)
    truth = (dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + contribution).logsumexp(0).detach()
    found = {k: log_evidence(pair, x, ImportanceWeighted(k)) for k in (1, 10, 200)}
    assert {evidence.bound for evidence in found.values()} == {"lower"}
    gaps = [(truth - evidence.value).mean().item() for evidence in found.values()]
    assert gaps[0] > gaps[1] > gaps[2] > -0.01
    ratio = (found[10].value - truth).exp()  # E[exp(estimate)] = p(x)
    assert abs(float((ratio.mean() - 1) / ratio.std())) * math.sqrt(len(x)) < Z_MAX
    halved = 0.5 * ratio  # the twin: one sign forgotten
    assert abs(float((halved.mean() - 1) / halved.std())) * math.sqrt(len(x)) > Z_MAX
    assert abs(gaps[2]) < 0.01
    with pytest.raises(ValueError, match="a point mass"):
        log_evidence(pair, x, NaiveMonteCarlo(10))


def linear_vae() -> tuple[Layer, dist.MultivariateNormal]:
    """A VAE layer of linear maps, and its exact p(x)."""
    encoder, decoder = (ConditionalNormal(*sizes, hidden=()).double() for sizes in ((D, 2), (2, D)))
    for module, size in ((encoder, 0.1), (decoder, 0.4)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(size * torch.randn_like(parameter))
            module.network.layers[-1].weight[len(module.network.layers[-1].weight) // 2 :] = 0  # one scale for all
    layer = VAELayer(encoder, decoder, shape=D, latent_dim=2)
    p_x = decoder(torch.zeros(2, dtype=DOUBLE))
    weight = decoder(torch.eye(2, dtype=DOUBLE)).mean - p_x.mean
    covariance = weight.T @ weight + torch.diag(p_x.variance)
    return layer, dist.MultivariateNormal(p_x.mean.detach(), covariance.detach())


def test_a_vae_as_a_layer_draws_anew_for_each_particle():
    layer, p_x = linear_vae()
    x = p_x.sample((300,))
    pair = pair_of(layer)
    draws = pair.draw(x, 4)
    assert pair.vectorizes(pair.rows(x).batch())
    assert draws.log_weight.std(0).min() > 0
    truth = p_x.log_prob(x)
    one, many = (log_evidence(pair, x, ImportanceWeighted(k)) for k in (1, 500))
    assert many.bound == "lower"
    assert ((one.value - truth).mean() < -0.05) and abs(float((many.value - truth).mean())) < 0.02
    ratio = (draws.log_weight - truth).exp().mean(0)  # E[w] = p(x)
    assert abs(float((ratio.mean() - 1) / ratio.std()) * math.sqrt(len(x))) < Z_MAX
    wrong = 1.5 * ratio  # the twin: a factor is seen
    assert abs(float((wrong.mean() - 1) / wrong.std()) * math.sqrt(len(x))) > Z_MAX
    with pytest.raises(ValueError, match="draws both ways"):
        pair.log_joint(x, draws.values)


def test_a_flow_that_draws_beside_x_is_scored_at_given_latents():
    pair = pair_of(Chain([Augment(D, 1, noise=ConditionalNormal(D, 1, hidden=HIDDEN)), ElementwiseAffine(D + 1)]))
    draws = pair.draw(rows(torch.float32), 5)
    torch.testing.assert_close(pair.log_joint(rows(torch.float32), draws.values).total, draws.log_p.total)


def test_whole_numbers_are_scored_at_given_latents_and_a_wrong_guide_is_refused():
    flow = Chain([Round(D, step=0.25), ActNorm(D), AffineCoupling(D, hidden=HIDDEN)])
    x = torch.randint(0, 17, (200, D)) / 4
    flow.layers[1].initialize(4 * x)
    pair = pair_of(flow)
    draws = pair.draw(x, 20)
    again = pair.log_joint(x, draws.values).total
    there = again.isfinite()  # a draw in 10^4 lies within a rounding of the edge of its level
    assert float(there.double().mean()) > 0.99
    torch.testing.assert_close(again[there], draws.log_p.total[there], rtol=1e-3, atol=1e-3)
    assert log_evidence(pair, x[:20], ImportanceWeighted(50)).bound == "lower"
    with pytest.raises(ValueError, match="must put z where the flow of the model encodes x to"):
        pair.log_joint(x, draws.values["z"] + 3)
    assert torch.equal(pair.predict(x, draws.values, mean=True)["x"][there], x.expand(20, 200, D)[there])


# -- the fit -----------------------------------------------------------------------------------------------------------


def test_a_fit_serves_in_everything(tmp_path):
    flow, x = made(FLOWS["spline coupling"], torch.float32), rows(torch.float32, 60)
    before = log_likelihood(flow.double(), x.double()).mean().item()
    flow.float()
    model, guide = FlowModel(flow), FlowGuide(flow)
    fit = VariationalEM(model, guide, lr=1e-2).fit(x, steps=40, batch_size=20, progress=False)
    exact = log_likelihood(flow.double(), x.double()).detach()
    flow.float()
    assert exact.mean() > before + 0.1
    torch.testing.assert_close(fit.elbo(x), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.log_evidence(x).value, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.encode(x), flow.encode(x)[0].detach())
    torch.testing.assert_close(fit.decode(fit.encode(x)), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fit.reconstruct(x), x, rtol=1e-4, atol=1e-4)
    assert fit.sample(7).shape == (7, D)
    assert "the ELBO equals the evidence" in str(fit.verdict(x))
    prior = fit.to_inference_data(x[:5], num_samples=3)["prior"]["z"]
    assert prior.shape == (1, 3, 5, D) and float(prior.std()) > 0.1
    fit.save(tmp_path / "flow")
    fresh = made(FLOWS["spline coupling"], torch.float32)
    loaded = ppl_vae.load(tmp_path / "flow", FlowModel(fresh), FlowGuide(fresh))
    assert torch.equal(loaded.elbo(x), fit.elbo(x))


def test_the_elbo_of_an_exact_flow_takes_one_pass_a_datum(monkeypatch):
    flow, x = made(FLOWS["spline coupling"], torch.float32), rows(torch.float32, 60)
    fit = VariationalEM(FlowModel(flow), FlowGuide(flow)).fit(x, steps=1, progress=False)
    fit.elbo(x, num_samples=1)  # what is found out once about a shape of data
    encode, passed = flow._encode, []
    monkeypatch.setattr(flow, "_encode", lambda x, context: passed.append(x.shape[:-1].numel()) or encode(x, context))
    many = fit.elbo(x, num_samples=64)
    assert sum(passed) == len(x)
    assert torch.equal(many, fit.elbo(x, num_samples=1))


def test_theta_and_phi_are_one_and_move_in_the_m_step():
    flow, x = made(FLOWS["volume kept"], torch.float32), rows(torch.float32)
    em = VariationalEM(FlowModel(flow), FlowGuide(flow), schedule=Alternating())
    before = [parameter.detach().clone() for parameter in flow.parameters()]
    em.e_step(x)
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))
    em.m_step(x)
    assert not any(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))
    assert set(em.pair.parameters.group.values()) == {"shared"}


@pytest.mark.usefixtures("own_store")
def test_data_that_have_been_written_into_are_encoded_anew():
    """Between guide and model, in a loop that fills one buffer."""
    flow, x = made(FLOWS["volume kept"]), rows()
    model, guide = FlowModel(flow), FlowGuide(flow)
    trace = pyro.poutine.trace(guide).get_trace(x)
    x.mul_(2)
    with pytest.raises(ValueError, match="must put z where the flow of the model encodes x to"):
        pyro.poutine.trace(pyro.poutine.replay(model, trace=trace)).get_trace(x).compute_log_prob()


def test_a_non_finite_layer_is_named():
    flow = Chain([ElementwiseAffine(D), AffineCoupling(D, hidden=HIDDEN), ElementwiseAffine(D)])
    em = VariationalEM(FlowModel(flow), FlowGuide(flow))
    em.fit(rows(torch.float32), steps=1, progress=False)
    with torch.no_grad():
        flow.layers[2].numbers.base[-1] = 200.0
    with pytest.raises(NonFiniteContribution) as error:  # under validation, through Pyro, which makes the error anew
        pair_of(flow).draw(rows(torch.float32), 1)
    assert (error.value.layer, error.value.way) == ("layers.2 (ElementwiseAffine)", "encode")
    with pytest.raises(NonFiniteError, match=r"step 0: the flow's layers.2 \(ElementwiseAffine\) put out") as caught:
        em.fit(rows(torch.float32), steps=3, progress=False)
    assert caught.value.site == "z"


# -- bases, contexts, errors -------------------------------------------------------------------------------------------


def test_the_base_is_any_distribution():
    flow, x = made(FLOWS["one layer"]), rows()
    mixture = MixtureOfNormals(D, num_components=2).double()
    fixed = dist.StudentT(5.0, torch.zeros(D, dtype=DOUBLE), 1.0).to_event(1)
    z, contribution = flow.encode(x)
    for base, p_z in ((mixture, mixture()), (fixed, fixed)):
        found = log_evidence(pair_of(flow, base=base), x)
        assert found.bound == "exact"
        torch.testing.assert_close(found.value, (p_z.log_prob(z) + contribution).detach(), rtol=1e-10, atol=1e-10)
    fit = VariationalEM(FlowModel(flow, base=mixture), FlowGuide(flow)).fit(x, steps=2, progress=False)
    groups = {name: group for name, group in fit.parameters.group.items() if "model.base" in name}
    assert set(groups.values()) == {"theta"} and len(groups) == 3


@pytest.mark.usefixtures("own_store")
def test_a_context_comes_as_y():
    flow = made(lambda: AffineCoupling(D, hidden=HIDDEN, context_dim=2))
    x, y = rows(), torch.randn(N, 2, dtype=DOUBLE)
    z, contribution = flow.encode(x, y)
    exact = (dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + contribution).detach()
    pair = pair_of(flow)
    torch.testing.assert_close(log_evidence(pair, {"x": x, "y": y}).value, exact, rtol=1e-10, atol=1e-10)
    assert FlowModel(flow)(y=y, num_samples=N).shape == (N, D)
    with counted(flow) as counts:
        Trace_ELBO().loss(FlowModel(flow), FlowGuide(flow), x, y=y)
    assert counts["_encode"] == 1
    assert abs(float(log_evidence(pair, {"x": x, "y": y.flip(0)}).value.sum() - exact.sum())) > 1e-3  # the twin


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowModel(Abs()), "takes vectors of any size, so a base is required"),
        (lambda: FlowModel(LULinear(3), base=dist.Normal(0.0, 1.0)), r"batch shape \(\) and the event shape \(3,\)"),
        (lambda: FlowModel(LULinear(3))(torch.zeros(2, 3), mask=torch.ones(2, 3).bool()), "mask must be None"),
        (lambda: FlowModel(LULinear(3))(), "FlowModel: x or num_samples is required"),
        (lambda: FlowModel(AffineCoupling(3, context_dim=2))(num_samples=2), "a context .* is required, got None"),
        (lambda: FlowGuide(LULinear(3))(), "FlowGuide: data x"),
        (lambda: FlowGuide(LULinear(3))(torch.zeros(2, 3), mask=torch.ones(2, 3).bool()), "mask must be None"),
        (lambda: FlowGuide(Inverse(Abs(3, sign=nn.Linear(3, 3)))), r"got Inverse\(Abs\)"),
        (lambda: FlowModel(Abs(3)).decode(torch.ones(2, 3)).mean, "decodes by chance"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Chain([LULinear(3), nn.Linear(3, 3)]), "Chain: layer 1: a layer of ppl_vae.flows .* got Linear"),
        (lambda: Chain(LULinear(3)), "Chain: a list of layers is required, got one LULinear"),
        (lambda: Inverse(nn.Linear(3, 3)), "Inverse: a layer of ppl_vae.flows"),
        (lambda: FlowModel([LULinear(3)]), "FlowModel: a layer .* got list"),
        (lambda: FlowGuide(nn.Linear(3, 3)), "FlowGuide: a layer .* got Linear"),
        (lambda: AmortizedFlow(nn.Linear(3, 3), nn.Linear(3, 3), latent_dim=3), "AmortizedFlow: a layer .* got Linear"),
    ],
)
def test_something_else_than_a_layer(call, message):
    with pytest.raises(TypeError, match=message):
        call()
