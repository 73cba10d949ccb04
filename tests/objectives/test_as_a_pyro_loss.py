"""An objective as the loss of Pyro's SVI remembers of a pair what still holds: each use gives what a new one would."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import own_store
from torch import nn

from ppl_vae import ELBO, IWAE, RLOO, CompiledSVI, ScoreFunction
from ppl_vae.objectives.objective import Objective

X = torch.linspace(1.0, 5.0, 12)


def model(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x + shift, 0.45))


def trained(loss: Objective, *, steps: int = 30, kind=pyro.infer.SVI) -> list[float]:
    """The parameters after some steps from a cleared store, and the losses."""
    pyro.clear_param_store()
    torch.manual_seed(3)
    svi = kind(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=loss)
    losses = [svi.step(X) for _ in range(steps)]
    return [*losses, pyro.param("loc").item(), pyro.param("shift").item()]


def value(loss: Objective, model, guide, *args, **kwargs) -> float:
    torch.manual_seed(1)
    return loss.loss(model, guide, *args, **kwargs)


@pytest.mark.parametrize("make", [ELBO, lambda: IWAE(3), ScoreFunction, lambda: RLOO(3)])
def test_a_second_run_after_the_store_was_cleared_trains_as_the_first(make):
    with own_store():
        loss = make()
        first = trained(loss)
        assert abs(first[-2]) > 0.5
        assert trained(loss) == first


def test_a_second_compiled_run_trains_as_the_first():
    with own_store():
        loss = ELBO()
        assert trained(loss, kind=CompiledSVI)[-2:] == pytest.approx(trained(loss)[-2:], rel=1e-4)


def test_a_parameter_put_in_the_place_of_another_is_trained():
    with own_store():
        loss = ELBO()
        trained(loss)
        pyro.get_param_store()["loc"] = torch.tensor(-4.0)
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=loss)
        for _ in range(10):
            svi.step(X)
        assert pyro.param("loc").item() > -3.9


def test_a_parameter_that_comes_later_is_trained_from_its_first_step_on():
    late = {"is_here": False}

    def growing(x):
        loc = pyro.param("slow", torch.tensor(0.0)) if late["is_here"] else 0.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc + pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x)

    with own_store():
        svi = pyro.infer.SVI(growing, lambda x: None, pyro.optim.Adam({"lr": 0.1}), loss=ELBO())
        svi.step(X)
        late["is_here"] = True
        svi.step(X)
        assert pyro.param("slow").item() == pytest.approx(0.1, abs=1e-3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.0))

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.shift, 1.0 + self.scale.square()), obs=x)

    def guide(self, x):
        pass


def test_parameters_freeze_and_thaw_between_steps():
    net, loss = Net(), ELBO()
    net.shift.requires_grad_(False)
    for frozen, moving in (("shift", "scale"), ("scale", "shift"), ("shift", "scale")):
        for name, leaf in net.named_parameters():
            leaf.grad = None
            leaf.requires_grad_(name == moving)
        loss.loss_and_grads(net.model, net.guide, X)
        assert getattr(net, frozen).grad is None
        assert getattr(net, moving).grad.item() != 0


def test_a_module_s_new_parameter_is_trained():
    net, loss = Net(), ELBO()
    loss.loss_and_grads(net.model, net.guide, X)
    net.shift = nn.Parameter(torch.tensor(0.5))
    loss.loss_and_grads(net.model, net.guide, X)
    assert net.shift.grad.item() == pytest.approx(-(X - 0.5).sum().item() / 1.01**2, rel=1e-5)


@dataclass
class Named:
    """Equal to every other of its name, whatever it holds."""

    name: str

    def __post_init__(self) -> None:
        self.loc = torch.zeros((), requires_grad=True)

    def __call__(self, x):
        loc = pyro.param(f"loc{id(self)}", lambda: self.loc)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def test_models_that_compare_equal_are_not_taken_for_each_other():
    first, second, loss = Named("a"), Named("a"), ELBO()

    def nothing(x):
        pass

    with own_store():
        loss.loss_and_grads(first, nothing, X)
        loss.loss_and_grads(second, nothing, X)
        grads = [leaf.grad for _, leaf in pyro.get_param_store().named_parameters()]
    assert [grad.item() for grad in grads] == pytest.approx([-X.sum().item()] * 2)


def labelled(x, y=None):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3), obs=y)
        pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)


def classifier(x, y=None):
    with pyro.plate("data", len(x)):
        if y is None:
            pyro.sample("c", dist.Bernoulli(torch.sigmoid(x)), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_rows_with_and_without_labels_have_the_values_that_they_have_alone(order):
    y = (X > 3).float()
    calls = [((X, y) if has_labels else (X,)) for has_labels in order]
    loss = ELBO()
    for args in (*calls, *calls):
        assert value(loss, labelled, classifier, *args) == pytest.approx(value(ELBO(), labelled, classifier, *args))


def two_plates(x):
    """Two plates: that of the rows is not the only one of its size if there are three."""
    with pyro.plate("things", 3):
        pyro.sample("w", dist.Normal(0.0, 1.0), obs=torch.ones(3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def test_the_plate_of_the_data_is_looked_for_again_where_a_first_batch_has_not_shown_it():
    with own_store():
        loss, expected = IWAE(50), value(IWAE(50), two_plates, guide, X)
        loss.loss(two_plates, guide, X[:3])
        assert value(loss, two_plates, guide, X) == pytest.approx(expected, rel=1e-6)
        known = IWAE(50)  # and once known, it is known where it could not be told
        known.loss(two_plates, guide, X)
        by_row = sum(value(IWAE(20_000), two_plates, guide, X[i : i + 1]) for i in range(3))
        by_row -= 2 * -3 * dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0)).item()
        assert value(known, two_plates, guide, X[:3]) == pytest.approx(by_row, abs=0.2)


def switched(x, mixes):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        scale = 0.5 + z.mean().abs() if mixes else 0.5  # a mean over all draws, if they are made at once
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def narrow(x, mixes):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.5))


def test_whether_draws_are_made_at_once_is_asked_for_each_branch_of_a_model():
    loss = IWAE(5)
    assert value(loss, switched, narrow, X, False) == pytest.approx(value(IWAE(5), switched, narrow, X, False))
    assert value(loss, switched, narrow, X, True) == pytest.approx(value(IWAE(5), switched, narrow, X, True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_a_copy_of_a_used_objective_looks_anew(copied):
    with own_store():
        loss = ELBO()
        before = value(loss, model, guide, X)
        assert value(copied(loss), model, guide, X) == pytest.approx(before)
