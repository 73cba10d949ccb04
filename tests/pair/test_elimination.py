"""Latents of the model alone are summed out one after the other: exactly, in any plates, along chains of any length."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from ppl_vae import ELBO, Pair, VariationalEM
from ppl_vae.evidence import Enumeration, ImportanceWeighted, log_evidence
from ppl_vae.evidence.measured_elbo import elbo
from ppl_vae.pair.responsibilities import draw_of, posteriors_of

N, K = 4, 3
MARK = {"enumerate": "parallel"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, 6, generator=generator(), dtype=torch.float64)
LENGTHS = torch.tensor([5, 3, 1, 4])


def simplex(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).softmax(-1)


START, MOVE, MOVE2 = simplex(K), simplex(K, K, seed=2), simplex(K, K, K, seed=3)


def means() -> Tensor:
    return pyro.param("means", lambda: torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64))


def draw(name: str, probs: Tensor) -> Tensor:
    return pyro.sample(name, dist.Categorical(probs), infer=MARK)


def chain(length: int = 5, markov: bool = True) -> Callable[..., None]:
    def model(x: Tensor) -> None:
        loc = means()
        with pyro.plate("data", len(x)):
            c = None
            for t in pyro.markov(range(length)) if markov else range(length):
                c = draw(f"c{t}", START if c is None else MOVE[c])
                pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, t])

    return model


def second_order(x: Tensor) -> None:
    loc = means()
    with pyro.plate("data", len(x)):
        before, c = None, None
        for t in pyro.markov(range(5), history=2):
            probs = START if c is None else MOVE[c] if before is None else MOVE2[before, c]
            before, c = c, draw(f"c{t}", probs)
            pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, t])


def factorial(x: Tensor) -> None:
    """Two chains that an observation ties: model 3 of Pyro's example of hidden Markov models."""
    loc = means()
    with pyro.plate("data", len(x)):
        a = b = torch.tensor(0)
        for t in pyro.markov(range(3)):
            a, b = draw(f"a{t}", MOVE[a]), draw(f"b{t}", MOVE2[0][b])
            pyro.sample(f"x{t}", dist.Normal(loc[a] + 0.5 * b, 1.0), obs=x[:, t])


def coupled(x: Tensor) -> None:
    """The second chain follows the first."""
    loc = means()
    with pyro.plate("data", len(x)):
        a = b = torch.tensor(0)
        for t in pyro.markov(range(3)):
            a = draw(f"a{t}", MOVE[a])
            b = draw(f"b{t}", MOVE2[a, b])
            pyro.sample(f"x{t}", dist.Normal(loc[b], 1.0), obs=x[:, t])


def tones(x: Tensor) -> None:
    """A plate of observations inside the data's, tied by one state: the product over it comes before the sum."""
    loc = means()
    with pyro.plate("data", len(x), dim=-2):
        c = torch.tensor(0)
        for t in pyro.markov(range(3)):
            c = draw(f"c{t}", MOVE[c])
            with pyro.plate(f"tones{t}", 2, dim=-1):
                pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, 2 * t : 2 * t + 2])


def inner(x: Tensor) -> None:
    """A latent of each tone below one of each datum: plates that nest, summed from the inside."""
    loc = means()
    with pyro.plate("data", len(x), dim=-2):
        top = draw("top", START)
        with pyro.plate("tones", 3, dim=-1):
            c = draw("c", MOVE[top])
            pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x[:, :3])


def tree(x: Tensor) -> None:
    loc = means()
    with pyro.plate("data", len(x)):
        root = draw("root", START)
        left, right = draw("l", MOVE[root]), draw("r", MOVE[root])
        for i, leaf in enumerate((draw("la", MOVE2[1][left]), draw("lb", MOVE2[2][left]), right)):
            pyro.sample(f"x{i}", dist.Normal(loc[leaf], 1.0), obs=x[:, i])


def unequal(both: bool) -> Callable[..., None]:
    """Sequences of unequal length, padded: after their end all, or the observations alone, are masked."""

    def model(x: Tensor) -> None:
        loc = means()
        with pyro.plate("data", len(x)):
            c = None
            for t in pyro.markov(range(5)):
                here = poutine.mask(mask=t < LENGTHS[: len(x)])
                with here if both else poutine.mask(mask=True):
                    c = draw(f"c{t}", START if c is None else MOVE[c])
                with here:
                    pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, t])

    return model


@config_enumerate
@config_enumerate
def partly_seen(x: Tensor) -> None:
    """A class that is known for some rows: Pyro's ``obs_mask`` makes a masked site for the others."""
    loc = means()
    with pyro.plate("data", len(x)):
        known = torch.tensor([True, False, True, False])[: len(x)]
        seen = torch.tensor([2, 0, 1, 0])[: len(x)]
        c = pyro.sample("c", dist.Categorical(START), obs=seen, obs_mask=known)
        pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x[:, 0])


LEFT_TO_RIGHT = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]], dtype=torch.float64).log()


def left_to_right(x: Tensor) -> None:
    """States that cannot be reached at first: sums of nothing but zeros, whose derivative is no number by itself."""
    loc = means()
    with pyro.plate("data", len(x)):
        c = None
        for t in pyro.markov(range(4)):
            logits = torch.tensor([0.0, -math.inf, -math.inf]).double() if c is None else LEFT_TO_RIGHT[c]
            c = pyro.sample(f"c{t}", dist.Categorical(logits=logits), infer=MARK)
            pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, t])


def single(x: Tensor) -> None:
    """A site of one value among others."""
    loc = means()
    with pyro.plate("data", len(x)):
        one = pyro.sample("one", dist.Categorical(torch.ones(1, dtype=torch.float64)), infer=MARK)
        c = draw("c", START)
        pyro.sample("x", dist.Normal(loc[c] + one, 1.0), obs=x[:, 0])


def bits(x: Tensor) -> None:
    """All joint values of three bits are one site's support."""
    loc = means()
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(START).to_event(1), infer=MARK)
        pyro.sample("x", dist.Normal(b @ loc, 1.0), obs=x[:, 0])


MODELS: dict[str, Callable[..., None]] = {
    "chain": chain(),
    "chain in a plain loop": chain(markov=False),
    "second order": second_order,
    "factorial": factorial,
    "coupled": coupled,
    "tones": tones,
    "inner": inner,
    "tree": tree,
    "unequal, all masked": unequal(True),
    "unequal, data masked": unequal(False),
    "partly seen": partly_seen,
    "left to right": left_to_right,
    "single": single,
    "bits": bits,
}
every_model = pytest.mark.parametrize("name", MODELS)


def nothing(x: Tensor) -> None:
    """Nothing is drawn."""


def pair_of(name: str) -> Pair:
    return Pair(MODELS[name], nothing, dtype=torch.float64).initialize(X)


# the oracle: all joint values, one after the other


def supports(model: Callable[..., None], x: Tensor) -> dict[str, tuple[Tensor, torch.Size, torch.Size]]:
    """Every summed site's values, the shape of its plates beside the data's, and of all."""
    with pyro.get_param_store().scope():
        trace = poutine.trace(model).get_trace(x)
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site["infer"].get("enumerate") and not site["is_observed"]:
            fn = site["fn"]
            if len(fn.event_shape):
                values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
            else:
                values = fn.enumerate_support(expand=False).flatten()
            others = [f.size for f in site["cond_indep_stack"] if f.vectorized and f.name != "data"]
            found[name] = values, torch.Size(others), fn.batch_shape
    return found


def joint_values(model: Callable[..., None], x: Tensor) -> Iterator[dict[str, Tensor]]:
    """The same values for every row: rows do not depend on each other."""
    known = supports(model, x)
    places = [(name, i) for name, (_, shape, _) in known.items() for i in range(shape.numel())]
    for picks in itertools.product(*(range(len(known[name][0])) for name, _ in places)):
        chosen: dict[str, list[int]] = {name: [] for name in known}
        for (name, _), k in zip(places, picks, strict=True):
            chosen[name].append(k)
        values = {}
        for name, (support, shape, batch) in known.items():
            value = support[torch.tensor(chosen[name])]
            values[name] = (value if len(shape) else value[0]).expand(batch + support.shape[1:])
        yield values


def log_joint(model: Callable[..., None], x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Log p(x, c) of each row by hand, without the masks of latents: (N,)."""
    trace = poutine.trace(poutine.condition(model, values)).get_trace(x)
    total = torch.zeros(len(x), dtype=torch.float64)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"] or type(site["fn"]).__name__ == "_Subsample":
            continue
        term = site["fn"].log_prob(site["value"])
        if name not in values and isinstance(site["mask"], Tensor):
            term = torch.where(site["mask"], term, 0.0)
        total = total + term.expand(torch.broadcast_shapes(term.shape, (len(x),) + (1,) * (term.dim() - 1))).reshape(
            len(x), -1
        ).sum(-1)
    return total


@functools.cache
def brute_force(name: str) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Log p(x) of each row, its gradient in the means, and the joint values with their posterior probabilities."""
    model = MODELS[name]
    with pyro.get_param_store().scope():
        means()
        leaf = pyro.param("means").unconstrained()
        every = list(joint_values(model, X))
        table = torch.stack([log_joint(model, X, values) for values in every])
        total = table.logsumexp(0)
        (slope,) = torch.autograd.grad(total.sum(), leaf)
    weights = table.softmax(0).detach()
    return total.detach(), slope, [{**v, "weight": w} for v, w in zip(every, weights, strict=True)]


@every_model
def test_evidence_elbo_and_gradient_are_those_of_all_joint_values(name):
    exact, slope, _ = brute_force(name)
    pair = pair_of(name)
    torch.testing.assert_close(log_evidence(pair, X).value, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(elbo(pair, X), exact, rtol=1e-10, atol=1e-10)
    leaf = pair.parameters.leaves["means"]
    for particles in (1, 2):
        leaf.grad = None
        with pair.scope():
            terms = ELBO(num_particles=particles).terms(pair, pair.rows(X).batch())
            terms.surrogates["theta"].backward()
        torch.testing.assert_close(terms.value.double(), exact, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(leaf.grad, slope / N, rtol=1e-9, atol=1e-10)


@every_model
def test_responsibilities_are_those_of_all_joint_values(name):
    _, _, table = brute_force(name)
    pair = pair_of(name)
    with pair.evaluating(0):
        found = posteriors_of(pair.run(pair.rows(X).batch()))
    for site, (values, shape, _) in supports(MODELS[name], X).items():
        probs = found[site].reshape(N, *shape, len(values))
        for k, value in enumerate(values):
            exact = torch.zeros(N, *shape, dtype=torch.float64)
            for row in table:
                hit = (row[site] == value).reshape(N, *shape, -1).all(-1)
                exact += hit * row["weight"].reshape(N, *(1,) * len(shape))
            torch.testing.assert_close(probs[..., k], exact, rtol=1e-9, atol=1e-9)


@every_model
def test_draws_are_joint_draws_of_the_posterior(name):
    """The frequency of every joint value of the first row, and its exact probability: z-tests at 4.5 errors."""
    assert worst_z(name, lambda run: draw_of(run)) < 4.5


def worst_z(name: str, draw_states: Callable[[Any], dict[str, Tensor]], count: int = 4000) -> float:
    _, _, table = brute_force(name)
    pair = pair_of(name)
    x = X[:1].expand(count, -1).contiguous() if "unequal" not in name and "partly" not in name else X
    rounds = 1 if len(x) > N else 300
    index: dict[tuple[float, ...], int] = {}
    for i, row in enumerate(table):
        index[key({k: v[0] for k, v in row.items() if k != "weight"})] = i
    hits = torch.zeros(len(table))
    with pair.evaluating(3):
        run = pair.run(pair.rows(x).batch())
        for _ in range(rounds):
            drawn = draw_states(run)
            for n in range(len(x) if len(x) > N else 1):
                hits[index[key({k: v[n] for k, v in drawn.items()})]] += 1
    total = hits.sum()
    probs = torch.stack([row["weight"][0] for row in table])
    error = (probs * (1 - probs) * total).sqrt().clamp(min=1.0)
    return float(((hits - probs * total) / error).abs().max())


def key(values: dict[str, Tensor]) -> tuple[float, ...]:
    return tuple(float(v) for name in sorted(values) for v in values[name].flatten())


def test_draws_from_the_margins_are_none():
    """The negative twin: each state from its own posterior, without the one before it."""

    def margins(run: Any) -> dict[str, Tensor]:
        return {name: torch.distributions.Categorical(p).sample() for name, p in posteriors_of(run).items()}

    assert worst_z("chain", margins) > 4.5


# chains of any length


def forward_algorithm(x: Tensor) -> Tensor:
    emit = dist.Normal(torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64), 1.0).log_prob(x.unsqueeze(-1))
    alpha = START.log() + emit[:, 0]
    for t in range(1, x.shape[1]):
        alpha = (alpha.unsqueeze(-1) + MOVE.log()).logsumexp(1) + emit[:, t]
    return alpha.logsumexp(-1)


@pytest.fixture(scope="module")
def long() -> tuple[Pair, Tensor]:
    x = torch.randn(3, 1000, generator=generator(5), dtype=torch.float64)
    return Pair(chain(1000), nothing, dtype=torch.float64).initialize(x), x


def test_a_chain_of_a_thousand_is_exact_and_says_so(long):
    pair, x = long
    estimate = log_evidence(pair, x)
    torch.testing.assert_close(estimate.value, forward_algorithm(x), rtol=1e-10, atol=1e-10)
    assert estimate.bound == "exact"
    assert (estimate.standard_error == 0).all()


def test_it_is_the_discrete_hmm_of_pyro(long):
    """Pyro's has a transition before the first observation: start such that it leads to ours."""
    _, x = long
    loc = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    first = torch.full((K, K), 0.0, dtype=torch.float64) + START  # from any state to START
    theirs = dist.DiscreteHMM(
        torch.zeros(K, dtype=torch.float64),
        torch.stack([first, *[MOVE] * 999]).log(),
        dist.Normal(loc, 1.0),
        duration=1000,
    )
    torch.testing.assert_close(theirs.log_prob(x), forward_algorithm(x), rtol=1e-10, atol=1e-8)


def test_states_of_a_long_chain_follow_their_smoothed_probabilities(long):
    pair, x = long
    with pair.evaluating(1):
        run = pair.run(pair.rows(x).batch())
        probs = posteriors_of(run)
        draws = [draw_of(run) for _ in range(12)]
    expected = torch.stack([probs[f"c{t}"][:, 2] for t in range(1000)])
    hits = torch.stack([torch.stack([d[f"c{t}"] for t in range(1000)]) == 2 for d in draws]).double().mean(0)
    z = (hits - expected).sum() / (expected * (1 - expected) / 12).sum().sqrt()
    assert abs(float(z)) < 4.5 * 3  # states beside each other are not independent
    assert float((hits - expected).abs().mean()) < 0.12


def test_a_long_chain_is_trained_on_mini_batches_and_predicts():
    x = torch.randn(6, 40, generator=generator(6), dtype=torch.float64) + 1.0
    em = VariationalEM(chain(40), nothing, lr=0.1, dtype=torch.float64)
    fit = em.fit(x, epochs=8, batch_size=4, progress=False)
    assert fit.history["elbo"].iloc[-1] > fit.history["elbo"].iloc[0] + 1
    assert fit.predict(x, {}, num_samples=2)["x7"].shape == (2, 6)
    assert fit.codes(x, "c3").shape == (6, 1)


def test_one_run_is_made_where_nothing_is_drawn(monkeypatch):
    pair = pair_of("chain")
    calls = []
    kept = type(pair.runner).run
    monkeypatch.setattr(type(pair.runner), "run", lambda self, batch, **k: calls.append(k) or kept(self, batch, **k))
    log_evidence(pair, X, ImportanceWeighted(1000))
    assert len(calls) <= 2  # one to see whether rows can be taken apart
    assert all(call.get("num_particles") is None for call in calls)


def test_a_plain_loop_ends_where_torchs_dimensions_do():
    x = torch.zeros(2, 70, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"torch has 64; write the loop as `for t in pyro\.markov\(range\(T\)\)`"):
        log_evidence(Pair(chain(70, markov=False), nothing, dtype=torch.float64).initialize(x), x)
    assert log_evidence(Pair(chain(40, markov=False), nothing, dtype=torch.float64).initialize(x), x).bound == "exact"


def test_a_sum_with_too_many_terms_at_once_is_refused_by_name():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            codes = [draw(f"c{i}", torch.ones(128, dtype=torch.float64) / 128) for i in range(3)]
            pyro.sample("x", dist.Normal(sum(codes) * 1.0, 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match=r"summing out 'c0' takes 2\.1e\+06 terms at once, over 'c0', 'c1'"):
        log_evidence(Pair(model, nothing, dtype=torch.float64).initialize(X), X)


def reaching_back(state: bool) -> Callable[..., None]:
    """A state, or an observation, that depends on the state two steps before, with a history of one."""

    def model(x: Tensor) -> None:
        loc = means()
        with pyro.plate("data", len(x)):
            before = c = torch.tensor(0)
            for t in pyro.markov(range(4)):
                new = draw(f"c{t}", MOVE2[before, c] if state else MOVE[c])
                pyro.sample(f"x{t}", dist.Normal(loc[new] if state else loc[new] + loc[before], 1.0), obs=x[:, t])
                before, c = c, new

    return model


def used_after(x: Tensor) -> None:
    loc = means()
    with pyro.plate("data", len(x)):
        c = torch.tensor(0)
        for t in pyro.markov(range(3)):
            c = draw(f"c{t}", MOVE[c])
            pyro.sample(f"x{t}", dist.Normal(loc[c], 1.0), obs=x[:, t])
        pyro.sample("end", dist.Normal(loc[c], 1.0), obs=x[:, 3])


@pytest.mark.parametrize(
    ("model", "who"),
    [
        (reaching_back(True), "'c2' depends on 'c0'"),
        (reaching_back(False), "'x2' depends on 'c0'"),
        (used_after, "'end' depends on 'c2'"),
    ],
)
def test_a_site_that_reaches_beyond_its_markov_scope_is_refused_by_name(model, who):
    """Its dimension would pass for that of another state, and the number be wrong."""
    pair = Pair(model, nothing, dtype=torch.float64).initialize(X)
    with pytest.raises(ValueError, match=f"{who}, which pyro.markov has let go of; give it a longer history="):
        log_evidence(pair, X)


def test_crossed_plates_are_refused_by_name():
    def model(x: Tensor) -> None:
        rows, columns = pyro.plate("data", len(x), dim=-2), pyro.plate("columns", 6, dim=-1)
        with rows:
            a = draw("a", START)
        with columns:
            b = draw("b", START)
        with rows, columns:
            pyro.sample("x", dist.Normal(a * 1.0 + b, 1.0), obs=x)

    pair = Pair(model, nothing, data_plate="data", dtype=torch.float64).initialize(X)
    with pytest.raises(ValueError, match="a density ties 'a', 'b', which stand in plates of which neither holds"):
        log_evidence(pair, X)


def test_a_chain_beside_a_drawn_latent_is_pyros_bound():
    """A continuous latent in the guide moves the emissions: value and gradient are TraceEnum_ELBO's."""

    def model(x: Tensor) -> None:
        loc = means()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            c = torch.tensor(0)
            for t in pyro.markov(range(4)):
                c = draw(f"c{t}", MOVE[c])
                pyro.sample(f"x{t}", dist.Normal(loc[c] + z, 1.0), obs=x[:, t])

    def guide(x: Tensor) -> None:
        mean = pyro.param("mean", lambda: torch.tensor(0.3, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, 0.5))

    pair = Pair(model, guide, dtype=torch.float64).initialize(X)
    with pair.scope():
        torch.manual_seed(3)
        theirs = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, X)
        grads = {name: leaf.grad.clone() for name, leaf in pair.parameters.leaves.items()}
        for leaf in pair.parameters.leaves.values():
            leaf.grad = None
        torch.manual_seed(3)
        terms = ELBO(analytic_kl=False).terms(pair, pair.rows(X).batch())
        slopes = {
            name: torch.autograd.grad(terms.surrogates[group], leaf, retain_graph=True)[0]
            for name, leaf, group in (
                ("means", pair.parameters.leaves["means"], "theta"),
                ("mean", pair.parameters.leaves["mean"], "phi"),
            )
        }
    assert float(terms.value.detach().sum()) == pytest.approx(-theirs, rel=1e-10)
    for name, slope in slopes.items():
        torch.testing.assert_close(-slope * N, grads[name], rtol=1e-9, atol=1e-10)


def test_a_global_class_is_summed_over_all_data():
    def model(x: Tensor) -> None:
        loc = means()
        c = draw("c", START)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x[:, 0])

    loc = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    exact = (START.log() + dist.Normal(loc, 1.0).log_prob(X[:, :1]).sum(0)).logsumexp(0)
    pair = Pair(model, nothing, dtype=torch.float64).initialize(X)
    assert float(log_evidence(pair, X).value) == pytest.approx(float(exact), rel=1e-10)


def test_enumeration_of_a_pair_without_drawn_latents_still_says_what_it_needs():
    with pytest.raises(ValueError, match="no latents that the guide draws"):
        log_evidence(pair_of("chain"), X, Enumeration())


def test_data_that_cannot_be_are_worth_minus_infinity():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = draw("c", START)
            never = torch.full((K,), -math.inf, dtype=torch.float64)
            pyro.factor("never", never[c])

    pair = Pair(model, nothing, dtype=torch.float64).initialize(X)
    assert (log_evidence(pair, X).value == -math.inf).all()


def test_a_state_that_cannot_be_is_worth_minus_infinity():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = draw("c", torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
            pyro.sample("x", dist.Normal(c * 1.0, 1.0), obs=x[:, 0])

    pair = Pair(model, nothing, dtype=torch.float64).initialize(X)
    exact = torch.stack([dist.Normal(float(c), 1.0).log_prob(X[:, 0]) for c in (0, 1)]).logsumexp(0) - math.log(2)
    torch.testing.assert_close(log_evidence(pair, X).value, exact, rtol=1e-10, atol=1e-10)
