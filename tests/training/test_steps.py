"""One gradient step: the loss is -L/N, so rates and clipping do not depend on how many rows there are."""

from __future__ import annotations

from functools import partial

import pyro
import pytest
import torch
from pairs import function_pair
from runs import Run, data, no_latents, plain

from ppl_vae import VariationalEM
from ppl_vae.objectives import objective as objective_module
from ppl_vae.training import GradientStep, build_optimizer

SGD = torch.optim.SGD
X = data(8, dtype=torch.float64)


def moved(x, *, steps: int = 1, batch_size: int | None = None, **em) -> torch.Tensor:
    """How far plain gradient descent carries the mean of a model without latents (it has no noise)."""
    em = {"optimizer": SGD, "lr": 0.5, "dtype": torch.float64, **em}
    fit = VariationalEM(*no_latents(x.shape[1]), **em).fit(x, steps=steps, batch_size=batch_size, progress=False)
    return fit.params["mu"]


def test_the_step_is_that_of_the_mean_over_data():
    """The gradient of -L/N at mu = 0 is -mean(x)."""
    torch.testing.assert_close(moved(X), 0.5 * X.mean(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("copies", [1, 2, 10])
def test_copies_of_the_data_change_nothing(copies):
    torch.testing.assert_close(moved(X.repeat(copies, 1)), moved(X), rtol=1e-12, atol=1e-12)


BATCHES = [1, 2, 4, 7, 8]


@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("clip_norm", [None, 0.1, 100.0])
def test_equal_rows_make_equal_steps_in_batches_of_any_size(batch_size, clip_norm):
    x = X[:1].repeat(8, 1)
    step = moved(x, batch_size=batch_size, clip_norm=clip_norm)
    torch.testing.assert_close(step, moved(x, clip_norm=clip_norm), rtol=1e-12, atol=1e-12)
    if clip_norm == 0.1:
        assert float(step.norm()) == pytest.approx(0.5 * 0.1, rel=1e-5)


def test_a_loss_that_is_not_divided_by_the_rows_breaks_the_laws(monkeypatch):
    """The negative twin: minus the whole ELBO, as Pyro has it."""
    kept = objective_module.assign_gradients
    monkeypatch.setattr(objective_module, "assign_gradients", lambda s, leaves: kept(s, leaves, scale=8.0))
    once = moved(X)
    monkeypatch.setattr(objective_module, "assign_gradients", lambda s, leaves: kept(s, leaves, scale=80.0))
    assert not torch.allclose(moved(X.repeat(10, 1)), once)


def test_clipping_bounds_the_norm_over_both_sides():
    def step(clip_norm):
        em = VariationalEM(*plain(), optimizer=SGD, lr=1.0, clip_norm=clip_norm)
        em.pair.initialize(data())
        before = {k: t.detach().clone() for k, t in em.pair.parameters_by_name().items()}
        em.step(data())
        return {k: t.detach() - before[k] for k, t in em.pair.parameters_by_name().items()}

    def norm(step):
        return torch.stack([t.norm() for t in step.values()]).norm()

    free, bound = step(None), step(0.01)
    assert norm(free) > 0.1
    assert float(norm(bound)) == pytest.approx(0.01, rel=1e-4)
    for name in free:  # the direction is that of the whole gradient
        torch.testing.assert_close(bound[name] / norm(bound), free[name] / norm(free), rtol=1e-3, atol=1e-5)
    loose = step(1e6)
    assert all(torch.equal(loose[name], free[name]) for name in free)


def test_clipping_looks_at_the_side_that_moves_alone():
    """In an E-step the gradient of θ is not there, so it takes nothing from φ's share."""
    em = VariationalEM(*plain(), optimizer=SGD, lr=1.0, clip_norm=0.01)
    em.pair.initialize(data())
    before = {k: t.detach().clone() for k, t in em.pair.parameters.of("phi").items()}
    em.e_step(data())
    change = torch.stack([(t.detach() - before[k]).norm() for k, t in em.pair.parameters.of("phi").items()]).norm()
    assert float(change) == pytest.approx(0.01, rel=1e-4)


def test_each_side_has_its_rate():
    def change(**rates) -> dict[str, torch.Tensor]:
        em = VariationalEM(*plain(), optimizer=SGD, dtype=torch.float64, **rates)
        em.pair.initialize(data())
        before = {k: t.detach().clone() for k, t in em.pair.parameters_by_name().items()}
        em.step(data())
        return {k: t.detach() - before[k] for k, t in em.pair.parameters_by_name().items()}

    base = change(lr=0.1)
    for rates, theta, phi in (
        ({"lr": 0.1, "e_lr": 0.4}, 1, 4),
        ({"lr": 0.1, "m_lr": 0.4}, 4, 1),
        ({"lr": 9.0, "e_lr": 0.2, "m_lr": 0.05}, 0.5, 2),
    ):
        found = change(**rates)
        for name, step in base.items():
            factor = phi if name.startswith("guide") else theta
            torch.testing.assert_close(found[name], factor * step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [0, -0.1, 0.0])
def test_clip_norm_is_positive(bad):
    with pytest.raises(ValueError, match=f"clip_norm must be positive, got {bad}"):
        moved(X, clip_norm=bad)


# optimizers

FACTORIES = {
    "class": torch.optim.Adam,
    "partial": partial(torch.optim.Adam, betas=(0.5, 0.9)),
    "function": lambda groups, lr=0.1, **options: torch.optim.Adam(groups, lr=lr, **options),
    "of Pyro": pyro.optim.Adam({"lr": 0.05}),
    "own choice of implementation": partial(torch.optim.Adam, foreach=True),
    "not fused": torch.optim.RMSprop,
}


@pytest.mark.parametrize("name", FACTORIES)
def test_optimizers_of_every_form_raise_the_objective(name):
    fit = Run(pair=plain, em={"optimizer": FACTORIES[name], "lr": 0.05})(80)
    assert fit.history["objective"].iloc[-1] > fit.history["objective"].iloc[0] + 0.3
    groups = fit.trainer.make.optimizer.param_groups
    assert [group["name"] for group in groups] == ["theta", "phi"]
    assert all(group["lr"] == 0.05 for group in groups)
    assert bool(groups[0].get("fused")) == (name in ("class", "partial", "of Pyro"))
    assert bool(groups[0].get("foreach")) == (name == "own choice of implementation")


def test_the_rate_of_an_optimizer_of_pyro_is_its_own():
    fit = Run(em={"optimizer": pyro.optim.Adam({"lr": 0.2}), "lr": 0.05})(1)
    assert [group["lr"] for group in fit.trainer.make.optimizer.param_groups] == [0.2, 0.2]


BAD_OPTIMIZERS = {
    "a name": ("adam", "a torch optimizer class .* is required, got 'adam'"),
    "an optimizer": (
        SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
        "a torch optimizer class .* is required, got SGD",
    ),
    "clipping of Pyro": (pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 1.0}), "without clipping and schedule"),
    "schedule of Pyro": (
        pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.9}),
        "give clip_norm= and lr_scheduler= instead",
    ),
    "rates by parameter": (pyro.optim.Adam(lambda name: {"lr": 0.1}), "with a dictionary of options is required"),
}


@pytest.mark.parametrize("name", BAD_OPTIMIZERS)
def test_what_is_no_optimizer_is_refused(name):
    optimizer, message = BAD_OPTIMIZERS[name]
    with pytest.raises(TypeError, match=message):
        Run(em={"optimizer": optimizer})(1)


def test_a_pair_without_parameters_is_refused():
    with pytest.raises(ValueError, match=r"fit: the pair has no parameters to train; register them with pyro\.param"):
        build_optimizer(SGD, {"theta": {}, "phi": {}}, {"theta": 0.1, "phi": 0.1})


# the noise of a step is a function of its place


def test_noise_is_a_function_of_seed_step_and_rank():
    em = VariationalEM(*function_pair())
    em.pair.initialize(data(dtype=torch.float32))
    optimizer = build_optimizer(SGD, {"phi": em.pair.parameters.of("phi")}, {"phi": 0.1})

    def noise(seed: int, step: int, rank: int) -> tuple[float, ...]:
        with torch.random.fork_rng([]):
            GradientStep(em.pair, em.objective, optimizer, seed=seed, rank=rank).seed_noise(step)
            return tuple(torch.rand(2).tolist())

    places = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 2) for rank in (0, 1)]
    found = [noise(*place) for place in places]
    assert len(set(found)) == len(places)
    assert found == [noise(*place) for place in places]


def test_steps_leave_no_gradients_of_others_behind():
    """What ``.grad`` a caller left on a parameter takes no part in a step."""
    run = Run(pair=plain, em={"optimizer": SGD, "lr": 0.1}, fit={})
    clean = run(1).params
    model, guide = plain()
    for leaf in (*model.parameters(), *guide.parameters()):
        leaf.grad = torch.full_like(leaf, 100.0)
    found = VariationalEM(model, guide, optimizer=SGD, lr=0.1).fit(data(), steps=1).params
    assert all(torch.equal(clean[name], found[name]) for name in clean)
