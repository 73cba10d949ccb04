"""Enumerated runs: what is summed, the table of all values, runs in pieces, what is refused."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from enumerated import CASES, CLASSES, DIM, MARK, Bits, Chained, Discrete, InPlate, Plain, made, noise
from pairs import rows
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from ppl_vae import Fit
from ppl_vae.objectives import ELBO
from ppl_vae.pair import Pair, tabulate
from ppl_vae.pair.enumeration import pieces, support_of

X = rows(6)


def pair_of(module: Discrete) -> Pair:
    return Pair(module.model, module.guide).initialize(X)


def elbo_and_gradient(module: Discrete, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pair = pair_of(module)
    batch = pair.rows(X).batch()
    with pair.scope():
        torch.manual_seed(1)
        terms = ELBO(**options).terms(pair, batch)
        leaves = [leaf for leaf in module.parameters() if leaf.requires_grad]
        grads = torch.autograd.grad(terms.surrogates["theta"], leaves, allow_unused=True)
    return terms.value, [g if g is not None else torch.zeros(()) for g in grads]


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_support_of_independent_entries_is_all_combinations():
    found = support_of(dist.Bernoulli(torch.zeros(5, 3)).to_event(1), "b")
    assert found.tolist() == [list(map(float, code)) for code in itertools.product((0, 1), repeat=3)]
    assert support_of(dist.Categorical(torch.ones(7, 4)), "c").tolist() == [0, 1, 2, 3]


def test_pieces_are_even_and_never_of_one_value():
    for size, most in itertools.product(range(2, 30), range(1, 35)):
        cuts = list(pieces(size, most))
        assert [start for start, _ in cuts] == [sum(n for _, n in cuts[:i]) for i in range(len(cuts))]
        assert sum(n for _, n in cuts) == size and min(n for _, n in cuts) >= 2
        assert max(n for _, n in cuts) <= max(most, 3)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact and name != "many rows"])
def test_the_table_is_what_a_loop_over_all_values_finds(name):
    """Each value substituted by itself, one run of Pyro's handlers at a time."""
    module = made(name)
    pair = pair_of(module)
    with pair.scope(), torch.no_grad():
        table = tabulate(pair, pair.rows(X).batch())
    if name == "in a plate":  # all columns take one value at once
        values = [{"c": torch.full((DIM, len(X)), k)} for k in range(CLASSES)]
    else:
        codes = zip(*(value.unbind(0) for value in table.values.values()), strict=True)
        values = [
            {site: v.expand(len(X), *v.shape) for site, v in zip(table.values, code, strict=True)} for code in codes
        ]
    for i, value in enumerate(values):
        for fn, found in ((module.model, table.log_p), (module.guide, table.log_q)):
            with torch.no_grad(), pyro.get_param_store().scope({"params": {}, "constraints": {}}):
                trace = poutine.trace(poutine.condition(fn, data=value)).get_trace(X)
                trace.compute_log_prob()
            sites = [s for s in trace.nodes.values() if s["type"] == "sample" and "log_prob" in s]
            alone = sum(s["log_prob"] for s in sites if not isinstance(s["fn"], dist.Unit) and s["name"] != "data")
            alone = alone.T if name == "in a plate" else alone
            assert torch.allclose(found[i], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact and name != "many rows"])
def test_the_table_obeys_bayes_rule(name):
    module = made(name)
    pair = pair_of(module)
    batch = pair.rows(X).batch()
    with pair.scope():
        table, value = tabulate(pair, batch), ELBO().terms(pair, batch).value
    total = (table.log_posterior.exp()).sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)
    gap = (table.log_q.exp() * (table.log_q - table.log_posterior)).sum(0)
    gap = gap.sum(1) if gap.dim() > 1 else gap
    assert torch.allclose(table.log_evidence - gap, value, atol=1e-10)  # log p(x) = ELBO + KL(q || p(c|x))
    assert torch.allclose(table.elbo, value, atol=1e-10)


# -- in pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [1, 9, 13, 10**6])
@pytest.mark.parametrize(
    "name", ["plain", "normal given class", "class given normal", "chained", "in a plate", "masked", "bits"]
)
def test_pieces_make_the_whole(name, rows_at_once):
    whole, gradient = elbo_and_gradient(made(name), analytic_kl=False)
    module = made(name)
    module.max_rows = rows_at_once
    value, again = elbo_and_gradient(module, analytic_kl=False)
    assert torch.allclose(value, whole, atol=1e-10, rtol=0)
    for one, other in zip(gradient, again, strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=0)


def test_memory_is_bounded_by_the_piece():
    """The largest tensor that the model's likelihood makes has no more rows than were allowed, a few over."""
    seen = []

    class Watched(Bits):
        def model(self, x):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Bernoulli(logits=self.prior).to_event(1))
                fn = dist.Normal(self.decoder(b), 1.0).to_event(1)
                seen.append(fn.base_dist.loc.numel() // DIM * len(x))
                pyro.sample("x", fn, obs=x)

    module = Watched()
    pair = pair_of(module)
    with pair.scope():
        module.max_rows = 60
        ELBO().terms(pair, pair.rows(X).batch()).surrogates["theta"].backward()
    whole = 2**8 * len(X)
    assert len([n for n in seen if 1 < n < whole]) >= 2 * whole // 60  # forward, and once more going backward
    assert max(n for n in seen if n < whole) <= 60


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_sum_over_all_combinations_of_a_plate_is_refused():
    class Crossed(InPlate):
        def model(self, x):
            with pyro.plate("data", len(x), dim=-1):
                with pyro.plate("columns", DIM, dim=-2):
                    c = pyro.sample("c", dist.Categorical(logits=self.prior))
                pyro.sample("x", dist.Normal(self.loc[0, c].sum(-2, keepdim=True), 1.0), obs=x[:, 0])

    module = Crossed()
    with pytest.raises(ValueError, match=r"'x' depends on 'c' but stands outside its plate 'columns'"):
        elbo_and_gradient(module)


def test_too_many_joint_values_are_refused_with_their_number():
    module = Bits(bits=30)
    with pytest.raises(ValueError, match=r"'b' has 2\^30 = 1.07e\+09 joint values"):
        elbo_and_gradient(module)


def test_a_latent_without_a_finite_support_is_refused():
    class Counts(Discrete):
        def __init__(self):
            super().__init__()
            self.rate = noise(1)

        def model(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Poisson(1.0))
                pyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Poisson(self.rate.exp()), infer=MARK)

    with pytest.raises(ValueError, match="^enumeration: 'c' must have a finite support, got Poisson"):
        elbo_and_gradient(Counts())


def test_a_pair_that_mixes_up_classes_is_found():
    """``loc[c][:, 0]`` counts axes from the left: right for one class a row, wrong for all classes at once."""

    class Mixed(Plain):
        def model(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(logits=self.prior))
                loc = self.loc[c]
                loc = loc - loc[0]  # the first row of the batch, or the first class
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'x' has another density than with one"):
        elbo_and_gradient(Mixed())


def test_a_decoder_that_cannot_broadcast_is_named():
    class Narrow(Plain):
        def model(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(logits=self.prior))
                pyro.sample("x", dist.Normal(self.loc[c].reshape(len(x), DIM), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="does not run with all values of 'c' at once"):
        elbo_and_gradient(Narrow())


def test_a_score_function_site_given_an_enumerated_one_is_refused():
    class Half(Chained):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Categorical(logits=self.encoder(x)), infer=MARK)
                logits = self.encoder(x)[..., :3] + c.unsqueeze(-1)
                pyro.sample("d", dist.Categorical(logits=logits))

    with pytest.raises(ValueError, match="draws 'd', which has no reparametrization, given an enumerated"):
        elbo_and_gradient(Half())


class Handled(Discrete):
    """A mixture whose data stand under a handler."""

    def __init__(self, handler):
        super().__init__()
        self.loc, self.handler = noise(CLASSES, DIM), handler

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(CLASSES).double()), infer=MARK)
            with self.handler:
                pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("pair", self)


def test_a_weight_inside_a_sum_is_refused():
    with pytest.raises(ValueError, match="'x' bears a weight"):
        elbo_and_gradient(Handled(poutine.scale(scale=0.5)))


def test_a_mask_on_data_inside_a_sum_leaves_rows_out():
    seen = torch.arange(len(X)) > 2
    value, _ = elbo_and_gradient(Handled(poutine.mask(mask=seen)))
    module = Handled(poutine.mask(mask=seen))
    assert torch.equal(value[~seen], torch.zeros(3, dtype=torch.float64))
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        module.loc.data.copy_(torch.arange(12.0).reshape(CLASSES, DIM))
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(module.model, module.guide, X)
    assert elbo_and_gradient(module)[0].sum().item() == pytest.approx(-loss, abs=1e-10)


def test_free_bits_of_a_summed_prior_are_refused():
    with pytest.raises(ValueError, match="free_bits need the KL of 'z' by itself"):
        elbo_and_gradient(made("mixture"), free_bits=0.1)


def test_a_table_needs_discrete_latents_of_each_datum():
    pair = pair_of(made("normal given class"))
    with pair.scope(), pytest.raises(ValueError, match="but 'z' is not a discrete latent of each datum"):
        tabulate(pair, pair.rows(X).batch())


class MaskedAlone(Plain):
    """A class and nothing continuous: in every other row a mask takes the latent away."""

    def model(self, x):
        mask = torch.arange(len(x)) % 2 == 0
        with pyro.plate("data", len(x)):
            c = self.masked("c", dist.Categorical(logits=self.prior), mask, {})
            pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

    def guide(self, x):
        mask = torch.arange(len(x)) % 2 == 0
        with pyro.plate("data", len(x)):
            self.masked("c", dist.Categorical(logits=self.encoder(x)), mask, self.mark)

    def masked(self, name, fn, mask, infer):
        with poutine.mask(mask=mask):
            return pyro.sample(name, fn, infer=infer)


class MaskedByDistribution(MaskedAlone):
    def masked(self, name, fn, mask, infer):
        return pyro.sample(name, fn.mask(mask), infer=infer)


@pytest.mark.parametrize("kind", [MaskedAlone, MaskedByDistribution])
def test_a_mask_takes_terms_away_and_no_probability(kind):
    """The bound by hand; and since masked densities do not sum to 1, there is no table to read evidence from."""
    torch.manual_seed(0)
    module = kind()
    log_q, log_p = module.encoder(X).log_softmax(-1), module.prior.log_softmax(-1)
    likelihood = dist.Normal(module.loc.unsqueeze(1), 1.0).log_prob(X).sum(-1).T
    prior = torch.where((torch.arange(len(X)) % 2 == 0).unsqueeze(-1), log_p - log_q, 0.0)
    exact = (log_q.exp() * (likelihood + prior)).sum(-1)
    torch.testing.assert_close(elbo_and_gradient(module)[0], exact, atol=1e-10, rtol=0)
    pair = pair_of(module)
    with pair.scope(), pytest.raises(ValueError, match="'c' bears a mask"):
        tabulate(pair, pair.rows(X).batch())
    fit = Fit(pair)
    drawn = fit.elbo(X, num_samples=4000)
    assert (drawn - exact).abs().max() < 0.2  # of two numbers that lie 1 to 6 nats apart
    assert fit.log_evidence(X).bound != "exact"


def test_a_mask_on_a_summed_latent_takes_no_probability_away():
    """Over its values it sums to one, masked or not; else each would count as 1, and add log K to masked rows."""

    def kind(masked):
        class Summed(Plain):
            def model(self, x):
                with pyro.plate("data", len(x)):
                    fn = dist.Categorical(logits=self.prior)
                    c = pyro.sample("c", fn.mask(torch.arange(len(x)) % 2 == 0) if masked else fn, infer=MARK)
                    pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

            def guide(self, x):
                pass

        torch.manual_seed(0)
        return Summed()

    values = [elbo_and_gradient(kind(masked))[0] for masked in (False, True)]
    torch.testing.assert_close(*values, atol=1e-12, rtol=0)


# -- what else a pair gives --------------------------------------------------------------------------------------------


def test_a_summed_latent_has_no_posterior_but_can_be_given():
    pair = pair_of(made("mixture"))
    assert list(pair.latents) == ["z"] and list(pair.summed) == ["c"]
    z = torch.randn(3, len(X), 2, dtype=torch.float64)
    each = [pair.log_joint(X, {"z": z, "c": torch.full((3, len(X)), k)}).total for k in range(CLASSES)]
    assert torch.allclose(pair.log_joint(X, z).total, torch.stack(each).logsumexp(0), atol=1e-10)
    assert set(pair.simulate(4)) == {"c", "z", "x"}
    assert pair.draw_prior(X, 5).log_weight.shape == (5, len(X))


def test_draws_of_an_enumerated_guide_are_draws():
    pair = pair_of(made("plain"))
    draws = pair.draw(X, 4000)
    assert draws.values["c"].shape == (4000, len(X))
    with pair.scope(), torch.no_grad():
        table = tabulate(pair, pair.rows(X).batch())
    q = table.log_q.exp()
    seen = torch.stack([(draws.values["c"] == k).double().mean(0) for k in range(CLASSES)])
    assert ((seen - q) / (q * (1 - q) / 4000).sqrt()).abs().max() < 4.5


def test_the_gradient_reaches_every_parameter():
    module = made("bits")
    _, gradient = elbo_and_gradient(module)
    assert all(float(g.abs().max()) > 0 for g in gradient)
