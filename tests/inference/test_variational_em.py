"""Variational EM: its arguments, its steps by hand, and fits of every kind of pair."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, LinearGaussian, Regression, data_for, function_pair, rows
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from runs import NUM_DATA, Run, data, differences, networks, plain, snapshot
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import ELBO, IWAE, Alternating, Callback, Joint, Pair, VariationalEM
from ppl_vae.data import Rows
from ppl_vae.guides import AmortizedNormal, MeanField
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.pair import DataAxisError, GlobalLatentError
from ppl_vae.training import EachStep

# what it is given

BAD = {
    "lr 0": ({"lr": 0}, {}, ValueError, "VariationalEM: lr must be positive, got 0"),
    "lr negative": ({"lr": -0.1}, {}, ValueError, "VariationalEM: lr must be positive, got -0.1"),
    "lr NaN": ({"lr": float("nan")}, {}, ValueError, "VariationalEM: lr must be positive, got nan"),
    "e_lr": ({"e_lr": 0.0}, {}, ValueError, "VariationalEM: e_lr must be positive, got 0.0"),
    "m_lr": ({"m_lr": -1}, {}, ValueError, "VariationalEM: m_lr must be positive, got -1"),
    "clip_norm": ({"clip_norm": 0}, {}, ValueError, "clip_norm must be positive, got 0"),
    "objective by name": ({"objective": "elbo"}, {}, TypeError, "objective: an Objective or a Pyro ELBO .* got 'elbo'"),
    "objective class": ({"objective": ELBO}, {}, TypeError, "an Objective or a Pyro ELBO instance is required"),
    "optimizer by name": ({"optimizer": "adam"}, {}, TypeError, "a torch optimizer class .* got 'adam'"),
    "schedule by name": ({"schedule": "joint"}, {}, TypeError, r"a schedule such as Joint\(\) .* got 'joint'"),
    "schedule class": ({"schedule": Joint}, {"steps": 1}, TypeError, "required|moves"),
    "lr_scheduler by name": ({"lr_scheduler": "cosine"}, {}, TypeError, "a function of the optimizer, got 'cosine'"),
    "until beside a length": ({}, {"until": "converged"}, ValueError, "until is of fits without a length, got steps"),
    "two lengths": ({}, {"epochs": 1}, ValueError, "give either epochs= or steps=, got epochs=1, steps=2"),
    "negative steps": ({}, {"steps": -1}, ValueError, "steps must be a whole number >= 0, got -1"),
    "half an epoch": ({}, {"epochs": 0.5, "steps": None}, ValueError, "epochs must be a whole number >= 0, got 0.5"),
    "batch_size 0": ({}, {"batch_size": 0}, ValueError, "batch_size must be a whole number, at least 1, got 0"),
    "batch_size 2.5": ({}, {"batch_size": 2.5}, ValueError, "batch_size must be a whole number, at least 1, got 2.5"),
    "every 0": ({}, {"every": 0}, ValueError, "every must be a whole number of steps, at least 1, got 0"),
    "data_plate": ({"data_plate": "rows"}, {}, DataAxisError, "data_plate='rows' is not a vectorized plate"),
    "dtype": ({"dtype": torch.int64}, {}, TypeError, "floating"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_words(name):
    em, fit, error, message = BAD[name]
    with pytest.raises(error, match=message):
        VariationalEM(*plain(), **em).fit(data(), **{"steps": 2, **fit})


@pytest.mark.parametrize("which", ["model", "guide"])
@pytest.mark.parametrize("value", [None, VAE, 3])
def test_a_pair_is_made_of_functions_or_modules(which, value):
    pair = dict(zip(("model", "guide"), plain(), strict=True)) | {which: value}
    with pytest.raises(TypeError, match=f"Pair: the {which} must be a function or a module instance, got"):
        VariationalEM(**pair)


def test_a_batch_size_beside_a_loader_is_refused():
    with pytest.raises(ValueError, match="batch_size is the DataLoader's own"):
        VariationalEM(*plain()).fit(DataLoader(TensorDataset(data())), steps=1, batch_size=3)


@pytest.mark.parametrize("steps", [(-1, 1), (1, -1), (0, 0)])
def test_alternating_wants_steps(steps):
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"Alternating: e_steps and m_steps must not be negative, nor both 0, got {steps[0]}, {steps[1]}"
        ),
    ):
        Alternating(*steps)


def test_wrong_networks_are_named_before_the_first_step():
    with pytest.raises(
        ValueError, match=r"AmortizedNormal: the encoder must return \(\.\.\., 4\) for latent_dim=2, got \(14, 5\)"
    ):
        VariationalEM(plain()[0], AmortizedNormal(MLP(3, 5), latent_dim=2)).fit(data(), epochs=1)
    wrong = VAE(MLP(2, 4), latent_dim=2, likelihood="unit-normal")
    with pytest.raises(ValueError, match=r"VAE: the decoder must return \(\.\.\., 3\) for x of shape \(14, 3\)"):
        VariationalEM(wrong, plain()[1]).fit(data(), epochs=1)


def test_a_guide_that_forgets_a_site_is_named():
    def empty(x):
        pyro.param("unused", torch.zeros(()))

    with pytest.raises(ValueError, match=r"the guide must sample every latent site of the model, but it has no .*'z'"):
        VariationalEM(function_pair()[0], empty).fit(data(), steps=1)


# the data axis


def fixed(n: int):
    """A pair that wrote the number of rows into its plate."""

    def model(x):
        shift = pyro.param("shift", torch.zeros(3))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", n):
            pyro.sample("z", dist.Normal(x - loc, 1.0).to_event(1))

    return model, guide


def subsampling(n: int, size: int):
    """A pair that draws its own mini-batches, as Pyro's tutorials do."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", n, subsample_size=size) as index:
            pyro.sample("x", dist.Normal(mu, 2.0), obs=x[index])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

    return model, guide


def test_a_plate_of_fixed_size_takes_all_rows_and_no_batches():
    assert VariationalEM(*fixed(NUM_DATA)).fit(data(), steps=2).steps == 2
    with pytest.raises(DataAxisError, match=r"on a mini-batch of 4 .*if the plate 'data' has a fixed size"):
        VariationalEM(*fixed(NUM_DATA)).fit(data(), steps=2, batch_size=4)


def test_a_pair_that_subsamples_gets_all_rows():
    x = 1.5 + 2 * torch.randn(80, generator=torch.Generator().manual_seed(0))
    fit = VariationalEM(*subsampling(80, 20), lr=0.05).fit(x, steps=200)
    precision = 80 / 4 + 1 / 9
    assert abs(float(fit.params["loc"]) - float(x.sum()) / 4 / precision) < 0.5 * precision**-0.5
    assert abs(float(fit.params["scale"]) * precision**0.5 - 1) < 0.25
    with pytest.raises(ValueError, match="the pair's plate 'data' subsamples the data itself; leave out batch_size"):
        VariationalEM(*subsampling(80, 20)).fit(x, steps=2, batch_size=20)


def test_global_latents_and_importance_weights_need_all_rows():
    case = CASES["AutoNormal"]
    model, guide = case.make()
    assert VariationalEM(model, guide, objective=IWAE(2)).fit(data_for(case), steps=2).steps == 2
    with pytest.raises(GlobalLatentError, match="IWAE: with latents outside the data plate"):
        VariationalEM(model, guide, objective=IWAE(2)).fit(data_for(case), steps=2, batch_size=5)


# forms of data

FORMS = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "float64 array": lambda x: x.double().numpy(),
    "frame": lambda x: pd.DataFrame(x.numpy()),
    "tuple": lambda x: (x,),
    "dictionary": lambda x: {"x": x},
    "TensorDataset": TensorDataset,
    "rows": Rows.of,
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=len(x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_any_form_make_the_same_fit(form):
    whole = Run(fit={})(6)
    fit = Run(fit={}, rows=lambda: FORMS[form](data()))(6)
    assert differences(snapshot(whole)["tensors"], snapshot(fit)["tensors"]) == []


def test_supervised_pairs_take_pairs_of_data():
    x = rows(20, dtype=torch.float32)
    y = x.sum(-1)
    model = Regression()
    fits = [
        VariationalEM(model, AutoNormal(model), lr=0.05).fit(form, steps=3)
        for form in (
            (x, y),
            (x.numpy(), pd.Series(y.numpy())),
            TensorDataset(x, y),
            DataLoader(TensorDataset(x, y), batch_size=20),
        )
    ]
    for fit in fits[1:]:
        assert fit.history["objective"].to_numpy() == pytest.approx(fits[0].history["objective"].to_numpy(), rel=1e-6)


def test_a_second_tensor_goes_to_a_keyword_only_argument():
    seen = []

    class Labelled(VAE):
        def forward(self, x=None, *, y=None, mask=None, num_samples=None):
            seen.append(y)
            return super().forward(x, mask=mask, num_samples=num_samples)

    model = Labelled(torch.nn.Linear(2, 3), latent_dim=2, likelihood="unit-normal")
    labels = torch.arange(NUM_DATA)
    VariationalEM(model, plain()[1]).fit((data(), labels), steps=1)
    assert torch.equal(seen[-1], labels)


def test_a_model_without_data():
    """The engine of sampling problems: a posterior that is written down, and fitted."""

    def target():
        pyro.sample("z", dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])).to_event(1))

    guide = AutoNormal(target)
    fit = VariationalEM(target, guide, lr=0.05, objective=ELBO(num_particles=4)).fit(None, steps=300)
    assert len(fit.history) == 300
    scale = fit.params["guide.scales.z"]
    assert scale.tolist() == pytest.approx([0.5, 2.0], rel=0.2)
    assert fit.params["guide.locs.z"].tolist() == pytest.approx([1.0, -2.0], abs=0.3)


@pytest.mark.parametrize("name", ["float64", "float32", None])
def test_precision_of_parameters_and_data(name):
    dtype = getattr(torch, name) if name else None
    x = rows(NUM_DATA)  # float64
    fit = VariationalEM(*plain(), dtype=dtype, lr=0.05).fit(x.numpy(), steps=5, batch_size=4)
    expected = dtype or torch.float32
    assert {t.dtype for t in fit.parameters_by_name().values()} == {expected}
    assert fit.config["dtype"] == str(expected).removeprefix("torch.")
    assert fit.trainer.batches.source.args[0].dtype == expected
    assert torch.equal(fit.trainer.batches.source.args[0], x.to(expected))  # not rounded on the way
    assert fit.elbo(x).dtype == torch.float64


def test_functions_are_run_in_the_precision_asked_for():
    fit = VariationalEM(*function_pair(), dtype=torch.float64).fit(data(), steps=2)
    assert {t.dtype for t in fit.parameters_by_name().values()} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32


# fits


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_pair_is_raised(name):
    """The ELBO after a fit against that before it, on the same draws: better in most of them."""
    case = CASES[name]
    x, em = data_for(case), VariationalEM(*case.make(), lr=0.05)
    em.pair.initialize(x)

    def measure() -> np.ndarray:
        return np.array([em.evaluate(x, seed=seed)["elbo"] for seed in range(20)])

    before = measure()
    em.fit(x, steps=100)
    gain = measure() - before
    assert (gain > 0).sum() >= 14
    assert np.median(gain) > 0.02


def test_bound_methods_reach_the_exact_answer():
    """The linear-Gaussian pair by methods of one module: the gap to log p(x) closes, and the ELBO stays below it."""
    module = LinearGaussian(seed=3)
    x = rows(40)
    em = VariationalEM(module.model, module.guide, lr=0.03)
    fit = em.fit(x, steps=400)
    gap = (module.log_marginal(x) - module.exact_elbo(x)).mean()
    assert 0 <= float(gap) < 0.6
    assert fit.model.__self__ is module  # in place
    assert {k: v for k, v in fit.parameters.group.items() if v == "shared"} == {}


LOSSES = {
    "None": None,
    "ELBO": ELBO(),
    "particles": ELBO(num_particles=3),
    "IWAE": IWAE(3),
    "Trace_ELBO": Trace_ELBO(),
    "TraceMeanField_ELBO": TraceMeanField_ELBO(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_objective_raises_the_elbo(name):
    em = VariationalEM(*plain(), lr=0.05, objective=LOSSES[name])
    em.pair.initialize(data())
    before = VariationalEM(em.pair.model, em.pair.guide).evaluate(data())["elbo"]
    em.fit(data(), steps=60)
    assert VariationalEM(em.pair.model, em.pair.guide).evaluate(data())["elbo"] > before + 0.3


def test_a_second_fit_goes_on_from_the_first():
    class First(Callback):
        def on_start(self, run):
            self.params = run.pair.params

    first = First()
    em = VariationalEM(*networks(), lr=0.05)
    one = em.fit(data(), steps=5)
    ended = one.params
    two = em.fit(data(seed=4), steps=5, callbacks=[first], seed=1)
    assert differences(ended, first.params) == []
    assert differences(ended, two.params) != []
    assert differences(one.params, two.params) == []  # one pair, trained in place
    assert (one.steps, two.steps) == (5, 5)
    assert two.model is one.model


def test_a_fit_of_a_fit_is_in_place():
    fit = Run(pair=plain)(5)
    again = VariationalEM(fit.model, fit.guide).fit(data(), steps=1)
    assert again.model is fit.model
    assert differences(fit.params, again.params) == []


# the mean-field guide knows its rows


def free_posteriors(**options):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return MeanField(num_data=NUM_DATA, latent_dim=2, **options)


def test_a_step_on_a_batch_moves_the_rows_of_the_batch():
    guide = free_posteriors()
    before = guide.loc.detach().clone()
    fit = VariationalEM(plain()[0], guide, optimizer=torch.optim.SGD, lr=0.1).fit(data(), steps=1, batch_size=4)
    moved = (guide.loc.detach() != before).any(-1).nonzero().flatten().tolist()
    assert moved == sorted(fit.trainer.batches.at(0, 0, 0).index.tolist())


def test_free_posteriors_in_batches_find_each_rows_own():
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1) has the posterior N(x_n / 2, 1/2): a permuted index would miss it."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = 3 * data()
    with torch.random.fork_rng([]):
        guide = MeanField(num_data=NUM_DATA, latent_dim=3)
    annealed = EachStep(partial(CosineAnnealingLR, T_max=600))
    fit = VariationalEM(model, guide, lr=0.1, lr_scheduler=annealed).fit(x, steps=600, batch_size=5)
    assert (fit.params["guide.loc"] - x / 2).abs().max() < 0.4
    assert (fit.params["guide.log_scale"].exp() - 0.5**0.5).abs().mean() < 0.08
    assert (x[:-1] / 2 - x[1:] / 2).abs().max() > 1  # what a wrong row would be off by
    torch.testing.assert_close(fit.encode(x), fit.params["guide.loc"])


def test_a_loader_gives_no_row_numbers():
    loader = DataLoader(TensorDataset(data()), batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match=r"MeanField: all 14 rows, or index \(B,\)"):
        VariationalEM(plain()[0], free_posteriors()).fit(loader, steps=1)


def test_an_autoguide_of_local_latents_is_refused_in_batches():
    model = function_pair()[0]
    assert VariationalEM(model, AutoDelta(model)).fit(data(), steps=2).steps == 2
    with pytest.raises(DataAxisError, match="AutoDelta: it keeps one posterior of 'z' per row"):
        VariationalEM(model, AutoDelta(model)).fit(data(), steps=2, batch_size=4)


# by hand


def test_steps_return_the_objective_before_them():
    em = VariationalEM(*plain(), lr=0.1)
    losses = [em.step(data()) for _ in range(40)]
    assert all(isinstance(value, float) for value in losses)
    assert losses[-1] > losses[0] + 0.3
    for step in (em.e_step, em.m_step):
        assert step(data()) == pytest.approx(losses[-1], abs=1.5)


def test_e_and_m_steps_each_raise_the_objective():
    for step in ("e_step", "m_step"):
        em = VariationalEM(*plain(), lr=0.05)
        before = em.evaluate(data())["elbo"]
        for _ in range(30):
            getattr(em, step)(data())
        assert em.evaluate(data())["elbo"] > before + 0.05, step


def test_steps_by_hand_take_the_rows_of_a_batch():
    em = VariationalEM(plain()[0], free_posteriors(), optimizer=torch.optim.SGD, lr=0.1)
    before = em.pair.guide.loc.detach().clone()
    em.evaluate(data())  # all rows are seen once
    part = Rows.of(data()).take(torch.tensor([3, 7]))
    em.step(part, num_data=NUM_DATA)
    moved = (em.pair.guide.loc.detach() != before).any(-1).nonzero().flatten().tolist()
    assert moved == [3, 7]


def test_evaluate_is_a_function_of_its_seed_and_moves_nothing():
    em = VariationalEM(*networks())
    em.pair.initialize(data())
    before = snapshot_of(em.pair)
    first = em.evaluate(data())
    assert list(first) == ["objective", "elbo", "reconstruction", "kl"]
    torch.manual_seed(9)
    assert em.evaluate(data()) == first
    assert em.evaluate(data(), seed=1) != first
    assert differences(before, snapshot_of(em.pair)) == []
    assert first["elbo"] == pytest.approx(first["reconstruction"] - first["kl"], rel=1e-5)


def snapshot_of(pair: Pair):
    tensors = {**pair.parameters_by_name(), **pair.buffers_by_name()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_evaluate_agrees_with_the_exact_elbo():
    module, x = LinearGaussian(seed=2), rows(30)
    em = VariationalEM(module.model, module.guide)
    values = np.array([em.evaluate(x, seed=seed)["elbo"] for seed in range(200)])
    error = values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean() - float(module.exact_elbo(x).mean())) < 4.5 * error


def test_the_result_of_steps_by_hand():
    em = VariationalEM(*plain(), lr=0.05)
    em.step(data())
    fit = em.result()
    assert (fit.ended, fit.steps, len(fit.history)) == ("by hand", 0, 0)
    assert fit.elbo(data()).shape == (NUM_DATA,)
    with pytest.raises(RuntimeError, match="the run that made this fit is not at hand"):
        fit.resume(steps=1)


# checkpoints


def test_the_folder_of_a_checkpoint_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    Run()(3, folder=folder)
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]


def test_a_run_of_no_steps_leaves_no_checkpoint(tmp_path):
    fit = Run()(0, folder=tmp_path)
    assert (fit.ended, fit.steps) == ("completed", 0)
    assert list(tmp_path.iterdir()) == []


def test_the_config_says_what_was_done():
    fit = VariationalEM(*plain(), lr=0.02, m_lr=0.01, objective=IWAE(2), schedule=Alternating(2, 1)).fit(
        data(), steps=2, batch_size=4, seed=3
    )
    assert fit.config == {
        "model": "VAE",
        "guide": "AmortizedNormal",
        "objective": "IWAE(2)",
        "schedule": "Alternating(e_steps=2, m_steps=1)",
        "optimizer": "Adam",
        "lr": 0.02,
        "e_lr": 0.02,
        "m_lr": 0.01,
        "clip_norm": None,
        "batch_size": 4,
        "num_data": NUM_DATA,
        "seed": 3,
        "device": "cpu",
        "dtype": "float32",
        "data_plate": "data",
    }
