"""The pair: what it refuses, and the traps of Pyro that it walks around."""

from __future__ import annotations

import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, LATENT, Decoder, Encoder, LinearGaussian, function_pair, rows, shared_mean
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import nn

from ppl_vae.evidence import decomposition, log_evidence
from ppl_vae.pair import DataAxisError, GlobalLatentError, LogProb, Pair


def test_a_parameter_that_both_sides_reach_is_shared():
    net = nn.Linear(2, 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Guide(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    pair = Pair(Model(), Guide()).initialize(torch.randn(5, 2))
    assert set(pair.parameters.group.values()) == {"shared"}
    assert list(pair.params) == ["model.net.weight", "model.net.bias"]


def test_modules_with_equal_names_do_not_share_parameters():
    """Pyro's global store would tie the two ``scale``s; module-local parameters keep them apart."""
    pair = Pair(Decoder(), Encoder()).initialize(rows(dtype=torch.float32))
    assert pair.params["model.scale"].shape == () and pair.params["guide.scale"].shape == (LATENT,)


def test_constrained_parameters_are_shown_constrained_and_moved_unconstrained():
    pair = Pair(*function_pair()).initialize(rows(dtype=torch.float32))
    assert pair.params["scale"] == 1.0 and pair.parameters_by_name()["scale"] == 0.0


def test_the_scope_shows_the_pairs_parameters_and_no_other():
    model, guide = function_pair()
    first = Pair(model, guide).initialize(rows(dtype=torch.float32), seed=1)
    second = Pair(model, guide).initialize(rows(dtype=torch.float32), seed=2)
    for pair in (first, second):
        with pair.scope():
            assert torch.equal(pyro.param("weight").detach(), pair.params["weight"])
    assert not torch.equal(first.params["weight"], second.params["weight"])
    assert not len(pyro.get_param_store())


def test_a_pair_trained_by_pyro_is_taken_over():
    model, guide = function_pair()
    x = rows(dtype=torch.float32)
    with pyro.get_param_store().scope():
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(5):
            svi.step(x)
        pair = Pair.from_param_store(model, guide)
        trained = pyro.param("weight").detach().clone()
    assert torch.equal(pair.initialize(x).params["weight"], trained)
    fresh = Pair(model, guide).initialize(x).params["weight"]  # the negative twin: a new pair starts anew
    assert not torch.equal(fresh, trained)


def test_parameters_unknown_to_pyro_are_reported():
    net = nn.Linear(2, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    with pytest.warns(UserWarning, match=r"2 tensors .* unknown to Pyro"):
        pair = Pair(model, guide).initialize(torch.randn(5, 2))
    assert list(pair.params) == ["loc"]


def test_no_plate_and_two_plates_are_errors_that_say_so():
    def none(x):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(2), obs=x)

    with pytest.raises(DataAxisError, match=r"over the 20 rows of the data .* plates of the pair are: none"):
        Pair(none, lambda x: None).initialize(rows())

    def two(x):
        with pyro.plate("left", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("right", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("left", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = rows(dtype=torch.float32)
    with pytest.raises(DataAxisError, match="'left', 'right' all are outermost plates over 20 rows"):
        Pair(two, guide).initialize(x)
    assert Pair(two, guide, data_plate="right").initialize(x).data_plate == "right"
    with pytest.raises(DataAxisError, match="data_plate='other' is not a vectorized plate"):
        Pair(two, guide, data_plate="other").initialize(x)


@pytest.mark.filterwarnings("ignore:Pair. the model observes nothing of the data")
def test_a_plate_of_fixed_size_refuses_mini_batches_but_not_full_ones():
    def model(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    assert Pair(model, guide).initialize(rows()).data_plate == "data"
    with pytest.raises(
        DataAxisError, match="runs on all 20 rows, but not on a mini-batch of 5 .* if the plate 'data' has a fixed size"
    ):
        Pair(model, guide).initialize(rows(), batch_size=5)


def test_global_latents_refuse_what_is_per_datum():
    pair = Pair(shared_mean, AutoNormal(shared_mean)).initialize(rows(dtype=torch.float32))
    with pytest.raises(GlobalLatentError, match="'mean', 'scale' stand outside the data plate 'data'"):
        pair.sites.require_local("calibration")


def test_an_autoguide_with_a_posterior_per_row_refuses_mini_batches():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(3)).to_event(1), obs=x)

    pair = Pair(model, AutoNormal(model)).initialize(rows(dtype=torch.float32))
    with pytest.raises(DataAxisError, match="AutoNormal: it keeps one posterior of 'z' per row"):
        pair.sites.require_batchable(pair.guide)


def test_a_pair_that_subsamples_itself_gets_all_data_and_says_why_rows_cannot_be_judged():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[index, 0])

    x = rows(dtype=torch.float32)
    pair = Pair(model, AutoNormal(model)).initialize(x)
    assert pair.layout.axis.subsampled
    with pytest.raises(DataAxisError, match="draws its own subsample"):
        pair.draw(x, 1)


@pytest.mark.parametrize(("model", "guide"), [(None, lambda x: None), (lambda x: None, nn.Linear)])
def test_a_pair_is_made_of_callables(model, guide):
    with pytest.raises(TypeError, match="must be a function or a module instance"):
        Pair(model, guide)


def test_a_pair_that_was_not_run_says_so():
    with pytest.raises(RuntimeError, match=r"not been run on data yet"):
        Pair(*function_pair()).params  # noqa: B018


def test_values_must_be_complete():
    pair = Pair(shared_mean, AutoNormal(shared_mean)).initialize(rows(dtype=torch.float32))
    with pytest.raises(ValueError, match=r"every latent site is required, got none of \['scale'\]"):
        pair.log_joint(rows(), {"mean": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match=r"by site are required for the latents \['mean', 'scale'\]"):
        pair.log_joint(rows(), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="log_guide: a value of every site of the guide is required"):
        pair.log_guide(rows(), {"mean": torch.zeros(1, 3), "scale": torch.ones(1)})


def test_log_guide_is_exact_at_given_values():
    pair = LinearGaussian()
    bound = Pair(pair.model, pair.guide).initialize(rows())
    z = torch.randn(5, 20, LATENT, dtype=torch.float64)
    torch.testing.assert_close(bound.log_guide(rows(), z).total, pair.q(rows()).log_prob(z).detach())


def test_the_data_plate_may_lie_anywhere():
    """A plate of columns to the right of the data plate."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 1.0))

    x = rows(dtype=torch.float32)
    pair = Pair(model, guide).initialize(x)
    draws = pair.draw(x, 3)
    z = draws.values["z"]
    expected = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.unsqueeze(-1), 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(draws.log_p.total, expected.double(), rtol=1e-5, atol=1e-5)


def test_masks_count_and_weights_do_not_enter_densities():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with pyro.poutine.scale(scale=7.0), pyro.poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = rows(dtype=torch.float32)
    pair = Pair(model, guide).initialize(x)
    draws = pair.draw(x, 2)
    exact = dist.Normal(draws.values["z"], 1.0).log_prob(x).sum(-1) * (x[:, 0] > 0)
    torch.testing.assert_close(draws.log_p.likelihood, exact.double(), rtol=1e-5, atol=1e-5)


def test_an_auxiliary_draw_for_all_rows_ties_the_data_together():
    """AutoDiagonalNormal draws all local latents as one vector: its log q cannot be charged to single rows."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(3)).to_event(1), obs=x)

    x = rows(dtype=torch.float32)
    pair = Pair(model, AutoDiagonalNormal(model)).initialize(x)
    assert pair.has_global_latents
    assert pair.draw(x, 5).log_weight.shape == (5,)


def test_a_point_mass_has_no_evidence():
    pair = Pair(shared_mean, AutoDelta(shared_mean)).initialize(rows(dtype=torch.float32))
    for ask in (lambda: log_evidence(pair, rows()), lambda: decomposition(pair, rows())):
        with pytest.raises(ValueError, match="it gives 'mean', 'scale' a point mass"):
            ask()


def test_sums_of_densities_do_not_mix_shapes():
    mixed = LogProb({"a": torch.zeros(5), "b": torch.zeros(5, 5)}, (), joint=False)
    with pytest.raises(ValueError, match="'b' is of shape"):
        mixed.total  # noqa: B018


def test_a_vectorized_run_is_not_believed_for_other_sizes():
    """One row, or weights at 0, cannot tell z[:, 0] from z[..., 0]: the check looks again, and at shaken weights."""
    model, guide = CASES["index trap"].make()
    x = rows(dtype=torch.float32)
    pair = Pair(model, guide).initialize(x)
    with pair.scope():
        pyro.param("w").unconstrained().data.fill_(2.0)
    fresh = pair.log_joint(x, torch.zeros(4, 20, 1)).total
    pair.runner._checks.clear()
    pair.draw(x[:1], 8)  # a one-row call first
    assert torch.equal(pair.log_joint(x, torch.zeros(4, 20, 1)).total, fresh)
    assert not pair.vectorizes(pair.rows(x).batch())


@pytest.mark.parametrize(
    ("observed", "message"),
    [(lambda x, w: dist.Normal(x * w, 1.0), "invalid log_prob shape"), (lambda x, w: dist.Normal(w, 1.0), None)],
)
def test_pyros_own_shape_checks_are_made(observed, message):
    """x (N, 1) against y (N,): broadcast to (N, N), and Pyro's check says so before the first step."""
    x, y = rows(6, dtype=torch.float32)[:, :1], rows(6, dtype=torch.float32)[:, 0]

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", observed(x, w), obs=y)

    pair = Pair(model, AutoNormal(model))
    if message is None:
        assert pair.initialize((x, y)).data_plate == "data"
    else:
        for _ in range(2):  # a second call must not find the pair initialized, and go on with the wrong shapes
            with pytest.raises(ValueError, match=message):
                pair.initialize((x, y))
        assert not pair.initialized


def test_a_guide_that_forgets_the_plate_or_the_event_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(3)).to_event(1), obs=x)

    for guide in (
        lambda x: pyro.sample("z", dist.Normal(x[:, 0], 1.0)),
        lambda x: pyro.sample("z", dist.Normal(x[:, 0], 1.0).to_event(1)),
    ):
        with pytest.raises(ValueError, match=r"z|shape|dims"):
            Pair(model, guide).initialize(rows(dtype=torch.float32))


def test_data_that_was_forgotten_is_not_drawn_in_silence():
    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z + x[:, 0], 1.0), obs=y)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))

    x = rows(dtype=torch.float32)
    pair = Pair(model, guide).initialize((x, x[:, 0]))
    with pytest.raises(ValueError, match="'y' of the model was neither observed nor drawn by the guide"):
        pair.draw(x, 2)


def test_a_look_at_a_pair_moves_no_buffer():
    norm = nn.BatchNorm1d(3)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.norm(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 1.0).to_event(1))

    Pair(Model().train(), guide).initialize(rows(dtype=torch.float32)).draw(rows(dtype=torch.float32), 3)
    assert int(norm.num_batches_tracked) == 0 and not bool(norm.running_mean.any())


def test_a_failing_model_leaves_nothing_behind():
    def model(x):
        pyro.param("made", torch.ones(()))
        raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        Pair(model, lambda x: None).initialize(rows())


def test_two_threads_never_meet():
    model, guide = function_pair()
    x = rows(dtype=torch.float32)
    alone = [Pair(model, guide).initialize(x, seed=s).draw(x, 3, seed=s).log_weight for s in range(4)]
    found: dict[int, torch.Tensor] = {}

    def work(s):
        found[s] = Pair(model, guide).initialize(x, seed=s).draw(x, 3, seed=s).log_weight

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[s], alone[s]) for s in range(4))


def test_the_table_has_every_kind():
    """A kind of pair that DESIGN names and the table lacks is a hole in every law."""
    assert {"functions", "pyro modules", "methods", "tutorial", "AutoNormal", "PyroSample"} <= set(CASES)
