"""What is bent in Pyro and torch during a trace gives the same numbers to the bit, and is straight again after it."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import own_store
from pyro.distributions import transforms as T
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.util import _fulldot, torch_item
from runs import same_bits
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from ppl_vae.capture import shims
from ppl_vae.pair.scope import validation

Pair = tuple[Callable[..., Any], Callable[..., Any]]
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))


def gradients_of(loss: Any, model: Any, guide: Any) -> list[Tensor]:
    """A loss of Pyro and the gradients of all parameters, on the same noise each time."""
    with own_store(), validation(False):
        torch.manual_seed(5)
        loss.loss_and_grads(model, guide, X)  # makes the parameters
        leaves = list(pyro.get_param_store()._params.values())
        for leaf in leaves:
            leaf.grad = None
        torch.manual_seed(5)
        value = loss.loss_and_grads(model, guide, X)
        return [
            torch.as_tensor(value, dtype=torch.float64),
            *(leaf.grad.clone() for leaf in leaves if leaf.grad is not None),
        ]


def mixture(probs: list[float]) -> Pair:
    """A class of probability zero, so a cost of infinity may be multiplied by it."""

    def model(x: Tensor) -> None:
        locs = pyro.param("locs", torch.tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            pyro.sample("x", dist.Normal(locs[c].unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.1, 0.2, 0.3]))
        with pyro.plate("data", len(x)):
            given = torch.tensor(probs) * weights.exp()
            pyro.sample("c", dist.Categorical(given / given.sum()), infer={"enumerate": "parallel"})

    return model, guide


def flowing(transform: Callable[[], Any], *, side: str) -> Pair:
    """A flow whose forward pass draws (guide), or whose inverse scores (model)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = transform()

    def base(loc: Tensor) -> Any:
        return dist.Normal(loc, 1.5).to_event(1)

    def pushed(loc: Tensor) -> Any:
        if isinstance(flow, nn.Module):
            pyro.module("flow", flow)
        return dist.TransformedDistribution(base(loc), [flow])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", (pushed if side == "model" else base)(torch.zeros(3)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", (pushed if side == "guide" else base)(3 * x + loc))

    return model, guide


def sequential() -> Pair:
    """A plate that is a loop."""

    def model(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0).expand([3]).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(len(x)))
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.Normal(loc[i], 1.0))

    return model, guide


def classes() -> Pair:
    """Rows of a table by a drawn class without dimensions, and the class as a one-hot vector."""

    def model(x: Tensor) -> None:
        table = pyro.param("table", torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        bias = pyro.param("bias", torch.zeros(2))
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
        shift = nn.functional.one_hot(c.long(), 2).float() @ bias.unsqueeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(table[c] + shift, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.3, -0.3]))
        pyro.sample("c", dist.Categorical(logits=logits))

    return model, guide


def outside_its_support() -> Pair:
    """A value that an argument check would refuse has a density all the same."""

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", torch.tensor(1.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Exponential(rate).expand([3]).to_event(1), obs=x)

    return model, lambda x: None


PROBLEMS: dict[str, tuple[Any, Pair]] = {
    "a loss": (Trace_ELBO(num_particles=2), classes()),
    "a loss with a baseline": (TraceGraph_ELBO(), classes()),
    "enumeration": (TraceEnum_ELBO(max_plate_nesting=1), mixture([0.2, 0.3, 0.5])),
    "a loop along a plate": (Trace_ELBO(), sequential()),
    "a value outside its support": (Trace_ELBO(), outside_its_support()),
    **{
        f"{name} in the {side}": (Trace_ELBO(), flowing(make, side=side))
        for side in ("guide", "model")
        for name, make in {
            "spline": lambda: T.spline(3, count_bins=4),
            "spline, quadratic": lambda: T.spline(3, count_bins=4, order="quadratic", bound=1.0),
            "affine autoregressive": lambda: T.affine_autoregressive(3, hidden_dims=[4]),
            "permutation": lambda: T.Permute(torch.tensor([2, 0, 1])),
        }.items()
    },
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_losses_and_gradients_are_the_same_to_the_bit(name):
    loss, (model, guide) = PROBLEMS[name]
    plain = gradients_of(loss, model, guide)
    with shims.active():
        bent = gradients_of(loss, model, guide)
    assert len(plain) == len(bent) > 1
    assert all(map(same_bits, plain, bent))


def test_a_class_of_probability_zero_costs_nothing():
    """Pyro leaves its entries out and adds up the rest: the same but for the order of the sum."""
    loss, (model, guide) = TraceEnum_ELBO(max_plate_nesting=1), mixture([0.5, 0.0, 0.5])
    plain = gradients_of(loss, model, guide)
    with shims.active():
        bent = gradients_of(loss, model, guide)
    for a, b in zip(plain, bent, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# one by one


def both(fn: Callable[[], Any]) -> tuple[Any, Any]:
    plain = fn()
    with shims.active():
        bent = fn()
    return plain, bent


@pytest.mark.parametrize("value", [0.1, -1e30, math.inf])
def test_a_loss_stays_a_tensor_of_the_same_value(value):
    loss = torch.tensor(value, requires_grad=True)
    plain, bent = both(lambda: torch_item(loss))
    assert isinstance(plain, float)
    assert isinstance(bent, Tensor) and bent.dtype == torch.float64 and not bent.requires_grad
    assert float(bent) == plain


def test_the_callers_own_item_is_a_number():
    with shims.active():
        assert type(torch.tensor(0.5).item()) is float
        assert type(torch_item(torch.tensor(3))) is int
        assert torch.tensor([True, False]).all().item() is False


@pytest.mark.parametrize("index", [0, 2, -1, -3])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4)])
def test_rows_by_a_number_that_is_a_tensor(shape, kind, index):
    rows = torch.randn(shape)
    plain, bent = both(lambda: rows[torch.tensor(index, dtype=kind)])
    assert same_bits(plain, bent)


def test_a_row_that_is_not_there_is_an_error_too():
    for index in (3, -4):
        with shims.active(), pytest.raises(IndexError):
            torch.randn(3, 2)[torch.tensor(index)]


KEYS = {
    "a mask": torch.tensor([True, False, True]),
    "a mask without dimensions": torch.tensor(True),
    "integers": torch.tensor([2, 0]),
    "a slice": slice(0, 2),
    "a tuple": (slice(None), torch.tensor(1)),
    "None": None,
    "a number": 1,
}


@pytest.mark.parametrize("name", KEYS)
def test_other_keys_are_as_ever(name):
    rows = torch.randn(3, 2)
    plain, bent = both(lambda: rows[KEYS[name]])
    assert same_bits(plain, bent)

    def filled() -> Tensor:
        copied = rows.clone()
        copied[KEYS[name]] = 7.0
        return copied

    assert same_bits(*both(filled))


@pytest.mark.parametrize("num_classes", [3, 5, -1])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_one_hot(shape, num_classes):
    if num_classes == -1 and 0 in shape:
        pytest.skip("torch asks for the number of classes")
    y = torch.randint(3, shape)
    assert same_bits(*both(lambda: nn.functional.one_hot(y, num_classes)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_a_loop_of_the_callers_over_a_tensor(dtype):
    values = torch.tensor([3, 1, 2]).to(dtype)
    plain, bent = both(lambda: torch.stack(list(values)))
    assert same_bits(plain, bent)


@pytest.mark.parametrize("shape", [(), (4,), (7, 7), (5, 3, 3)])
def test_sums_of_probabilities_times_costs(shape):
    probs = [torch.rand(shape) for _ in range(20)]
    for prob in probs:
        for cost in (torch.randn(shape), across(torch.randn(shape)), torch.randn(()).expand(shape)):
            assert same_bits(_fulldot(prob, cost), shims._fulldot(prob, cost))
            assert same_bits(_fulldot(across(prob), cost), shims._fulldot(across(prob), cost))


def across(t: Tensor) -> Tensor:
    """Another order in memory, where there are two dimensions: torch adds up in another order then."""
    return t.mT if t.dim() > 1 else t


def test_an_impossible_value_costs_nothing():
    prob, cost = torch.tensor([0.5, 0.0, 0.5]), torch.tensor([1.0, math.inf, 2.0])
    assert same_bits(shims._fulldot(prob, cost), _fulldot(prob[prob > 0], cost[prob > 0]))


def test_values_taken_as_constants_are_told():
    transform = T.affine_autoregressive(3, hidden_dims=[4])
    with shims.active() as constants:
        transform.inv(torch.randn(2, 3))
        assert [id(tensor) for tensor, _ in constants] == [id(transform.arn.permutation)] * len(constants)
        assert len(constants) > 0
    with shims.active() as constants:
        assert constants == []


def test_what_is_not_finite_is_not_looked_at():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pyro.infer.trace_elbo.warn_if_nan(math.nan, "loss")
        assert len(seen) == 1
        with shims.active():
            assert pyro.infer.trace_elbo.warn_if_nan(1.5, "loss") == 1.5
            pyro.infer.trace_elbo.warn_if_nan(math.nan, "loss")
        assert len(seen) == 1


# nothing is left behind


def everything_bent() -> dict[Any, Any]:
    """Every name of every module of Pyro, the checks of torch's distributions, and the modes over torch's functions."""
    modules = {n: m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "pyro" and m is not None}
    names = {(module, name): id(value) for module, m in modules.items() for name, value in vars(m).items()}
    checks = {name: id(value) for name, value in vars(torch.distributions.Distribution).items()}
    return {**names, **checks, "modes": [id(mode) for mode in _get_current_function_mode_stack()]}


def test_something_is_bent_inside():
    before = everything_bent()
    with shims.active():
        assert everything_bent() != before


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_straight_again(error):
    before = everything_bent()

    def leave() -> None:
        with shims.active():
            gradients_of(*[PROBLEMS["enumeration"][0], *PROBLEMS["enumeration"][1]])
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(error):
            leave()
    assert everything_bent() == before
    with pytest.raises(ValueError, match="support"):
        dist.Exponential(1.0, validate_args=True).log_prob(torch.tensor(-1.0))
    assert type(torch_item(torch.tensor(0.5))) is float


def test_the_installed_pyro_is_one_that_the_shims_were_tested_on():
    assert pyro.__version__ in shims.TESTED
