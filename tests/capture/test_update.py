"""The kernels of an optimizer make its own steps, on its own state, whatever happens between two of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop, lr_scheduler

from ppl_vae.capture import Update
from ppl_vae.capture.update import _KERNELS

STEPS = 10
SHAPES = [(3, 4), (5,), (), (2, 1, 3)]
Make = Callable[..., Optimizer]


def leaves_of(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradients(step: int, leaves: list[Any]) -> list[Tensor]:
    """Of very different sizes, some of them to be clipped."""
    generator = torch.Generator().manual_seed(100 + step)
    return [3 * torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype) for leaf in leaves]


def own_step(optimizers: list[Optimizer], leaves: list[Any], step: int) -> None:
    for leaf, grad in zip(leaves, gradients(step, leaves), strict=True):
        leaf.grad = grad
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


class Twins:
    """Two optimizers of the same options on equal leaves: one makes its own steps, one is moved by its kernels."""

    def __init__(self, make: Make, dtype: torch.dtype = torch.float32) -> None:
        self.own, self.ours = leaves_of(dtype), leaves_of(dtype)
        self.theirs, self.mine = make(self.own), make(self.ours)
        self.step = 0
        own_step([self.theirs], self.own, 0)
        own_step([self.mine], self.ours, 0)
        assert Update.refuses(self.ours, [self.mine] * len(self.ours)) is None
        self.update = Update(self.ours, [self.mine] * len(self.ours))

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            own_step([self.theirs], self.own, self.step)
            self.update(gradients(self.step, self.ours))

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """The leaves, and all that the optimizers remember of them."""

        def flat(leaves: list[Any], optimizer: Optimizer) -> list[Tensor]:
            state = [torch.as_tensor(v) for leaf in leaves for _, v in sorted(optimizer.state.get(leaf, {}).items())]
            return [leaf.detach() for leaf in leaves] + state

        return flat(self.own, self.theirs), flat(self.ours, self.mine)

    def must_agree(self, rtol: float = 0.0) -> None:
        expected, found = self.tensors()
        for theirs, ours in zip(expected, found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
        start = leaves_of(self.ours[0].dtype)
        assert not any(torch.equal(leaf, before) for leaf, before in zip(self.ours, start, strict=True))


OPTIONS: dict[type[Optimizer], list[dict[str, Any]]] = {
    Adam: [
        {},
        {"lr": 0.3, "betas": (0.5, 0.7), "eps": 1e-3},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"amsgrad": True},
        {"maximize": True, "amsgrad": True, "weight_decay": 0.1},
        {"lr": torch.tensor(0.02, dtype=torch.float64)},  # (in float32 the optimizer would divide it in float32)
    ],
    AdamW: [{}, {"weight_decay": 0.0}, {"amsgrad": True, "maximize": True}, {"betas": (0.0, 0.9)}],
    SGD: [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ],
    Adagrad: [{}, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5, "eps": 1e-3}, {"weight_decay": 0.1}],
    ClippedAdam: [
        {},
        {"lr": 0.1, "lrd": 0.9},
        {"clip_norm": 1.0, "weight_decay": 0.1},
    ],
}
if "centered_variance" in inspect.signature(ClippedAdam).parameters:  # from Pyro 1.9.2 on
    OPTIONS[ClippedAdam] += [
        {"centered_variance": True},
        {"centered_variance": True, "clip_norm": 0.5, "lrd": 0.99, "weight_decay": 0.1, "betas": (0.5, 0.7)},
    ]
CASES = [(kind, options) for kind, table in OPTIONS.items() for options in table]
DTYPES = [torch.float32, torch.float64]


def named(case: Any) -> str:
    if isinstance(case, dict):
        return " ".join(f"{name}={value}" for name, value in case.items()) or "as it is"
    return case.__name__ if isinstance(case, type) else str(case).removeprefix("torch.")


def test_every_kernel_is_in_the_table():
    assert OPTIONS.keys() == _KERNELS.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize(("kind", "options"), CASES, ids=named)
def test_kernels_make_the_very_steps_of_the_fused_optimizer(kind, options, dtype):
    """And of ClippedAdam, which has no fused form, but is made of the same operations."""
    fused = {} if kind is ClippedAdam else {"fused": True}
    twins = Twins(lambda leaves: kind(leaves, **options, **fused), dtype)
    twins.walk(STEPS)
    twins.must_agree()


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("form", [{}, {"foreach": True}, {"foreach": False}], ids=named)
@pytest.mark.parametrize(("kind", "options"), [case for case in CASES if case[0] is not ClippedAdam], ids=named)
def test_kernels_make_the_steps_of_an_optimizer_that_is_not_fused(kind, options, form, dtype):
    if isinstance(options.get("lr"), Tensor) and form.get("foreach"):
        pytest.skip("torch wants capturable=True for this")
    twins = Twins(lambda leaves: kind(leaves, **options, **form), dtype)
    twins.walk(STEPS)
    twins.must_agree(1e-6 if dtype == torch.float32 else 1e-13)


def test_kernels_work_where_float64_is_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        twins = Twins(lambda leaves: Adam(leaves, lr=0.1), torch.float64)
        twins.walk(STEPS)
        twins.must_agree(1e-13)
    finally:
        torch.set_default_dtype(torch.float32)


def test_other_numbers_are_other_steps():
    """The negative twin: the laws above see an option that is ignored."""
    twins = Twins(lambda leaves: Adam(leaves, lr=0.1, eps=1e-3, fused=True))
    twins.mine.param_groups[0]["eps"] = 2e-3
    twins.walk(1)
    with pytest.raises(AssertionError, match="not equal|not close"):
        twins.must_agree(1e-6)


# between two steps


def another_rate(optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.07


def other_options(optimizer: Optimizer) -> None:
    optimizer.param_groups[0].update(betas=(0.3, 0.5), weight_decay=0.2)


def own_state_again(optimizer: Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def own_state_twice(optimizer: Optimizer) -> None:
    for _ in range(2):  # the second state stands where the first one of all stood in memory
        own_state_again(optimizer)


def a_later_state(optimizer: Optimizer) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = entry["step"] + 5
        entry["exp_avg"] = entry["exp_avg"] * 2
    optimizer.load_state_dict(state)


def state_in_its_place(optimizer: Optimizer) -> None:
    """As a run is resumed: the dictionary stays, what stands in it is new."""
    old = {leaf: copy.deepcopy(entry) for leaf, entry in optimizer.state.items()}
    optimizer.state.clear()
    optimizer.state.update(old)


def tensors_in_their_place(optimizer: Optimizer) -> None:
    for entry in optimizer.state.values():
        entry["exp_avg"] = entry["exp_avg"] * 3


def no_state(optimizer: Optimizer) -> None:
    optimizer.state.clear()


BETWEEN = [
    another_rate,
    other_options,
    own_state_again,
    own_state_twice,
    a_later_state,
    state_in_its_place,
    tensors_in_their_place,
    no_state,
]


@pytest.mark.parametrize("between", BETWEEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [Adam, AdamW, ClippedAdam], ids=named)
def test_what_is_done_between_steps_counts(kind, between):
    twins = Twins(lambda leaves: kind(leaves, lr=0.1, **({} if kind is ClippedAdam else {"fused": True})))
    for _ in range(3):
        twins.walk(2)
        between(twins.theirs)
        between(twins.mine)
    twins.walk(3)
    twins.must_agree()


@pytest.mark.parametrize("kind", [Adam, ClippedAdam], ids=named)
def test_the_optimizer_can_step_by_itself_in_between(kind):
    twins = Twins(lambda leaves: kind(leaves, lr=0.1, **({} if kind is ClippedAdam else {"fused": True})))
    for _ in range(4):
        twins.walk(2)
        twins.step += 1
        own_step([twins.theirs], twins.own, twins.step)
        own_step([twins.mine], twins.ours, twins.step)
    twins.must_agree()


def test_momentum_that_begins_later_is_begun_by_the_optimizer():
    twins = Twins(lambda leaves: SGD(leaves, lr=0.1, fused=True))
    twins.walk(2)
    for optimizer in (twins.theirs, twins.mine):
        optimizer.param_groups[0]["momentum"] = 0.9
    twins.walk(4)
    twins.must_agree()


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_a_scheduler_of_torch_counts(rate):
    twins = Twins(lambda leaves: Adam(leaves, lr=copy.deepcopy(rate), fused=True))
    schedulers = [lr_scheduler.ExponentialLR(optimizer, 0.8) for optimizer in (twins.theirs, twins.mine)]
    for _ in range(4):
        twins.walk(2)
        for scheduler in schedulers:
            scheduler.step()
    assert float(twins.mine.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.8**4)
    twins.must_agree()


def test_a_hook_that_comes_later_is_called():
    twins = Twins(lambda leaves: Adam(leaves, lr=0.1, fused=True))
    twins.walk(2)
    calls = []
    twins.mine.register_step_post_hook(lambda *_: calls.append("after"))
    twins.walk(3)
    twins.must_agree()
    assert calls == ["after"] * 3


def test_the_gradients_of_the_caller_stay():
    twins = Twins(lambda leaves: Adam(leaves, lr=0.1, fused=True))
    kept = [torch.full_like(leaf, 7.0) for leaf in twins.ours]
    for leaf, grad in zip(twins.ours, kept, strict=True):
        leaf.grad = grad
    twins.update(gradients(1, twins.ours))
    no_state(twins.mine)
    twins.update(gradients(2, twins.ours))
    for leaf, grad in zip(twins.ours, kept, strict=True):
        assert leaf.grad is grad
        assert bool((grad == 7).all())


@pytest.mark.parametrize("kind", [Adam, SGD, Adagrad, ClippedAdam], ids=named)
def test_given_gradients_are_not_changed(kind):
    twins = Twins(lambda leaves: kind(leaves, lr=0.1, weight_decay=0.1))
    given = gradients(1, twins.ours)
    twins.update(given)
    assert all(torch.equal(grad, again) for grad, again in zip(given, gradients(1, twins.ours), strict=True))


# several groups, several optimizers

GROUPS = [
    [{"lr": 0.1}, {"lr": 0.2}],
    [{"lr": 0.1, "betas": (0.5, 0.6)}, {"lr": 0.1}],
    [{"lr": 0.1}, {"lr": 0.1}],
]


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("kind", [Adam, ClippedAdam], ids=named)
def test_each_group_has_its_options(kind, groups):
    def make(leaves: list[Any]) -> Optimizer:
        first, second = groups
        fused = {} if kind is ClippedAdam else {"fused": True}
        return kind([{"params": leaves[:1], **first}, {"params": leaves[1:], **second}], **fused)

    twins = Twins(make)
    twins.walk(3)
    for optimizer in (twins.theirs, twins.mine):
        optimizer.param_groups[1]["lr"] = 0.01
    twins.walk(3)
    twins.must_agree()


def test_rates_that_are_tensors_of_two_groups_part():
    """A scheduler changes them in place: equal ones today are no reason to be taken together."""

    def make(leaves: list[Any]) -> Optimizer:
        groups = [{"params": leaves[:2], "lr": torch.tensor(0.1)}, {"params": leaves[2:], "lr": torch.tensor(0.1)}]
        return Adam(groups, fused=True)

    twins = Twins(make)
    twins.walk(2)
    for optimizer in (twins.theirs, twins.mine):
        optimizer.param_groups[1]["lr"].fill_(0.7)
    twins.walk(2)
    twins.must_agree()


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.1, "lrd": 0.9}], ids=named)
def test_one_optimizer_a_parameter_as_pyro_makes_them(options):
    own, ours = leaves_of(), leaves_of()
    theirs, mine = [ClippedAdam([p], **options) for p in own], [ClippedAdam([p], **options) for p in ours]
    own_step(theirs, own, 0)
    own_step(mine, ours, 0)
    update = Update(ours, mine)
    for step in range(1, STEPS):
        own_step(theirs, own, step)
        update(gradients(step, ours))
        if step == 4:
            for optimizer in (theirs[1], mine[1]):
                optimizer.param_groups[0]["lr"] = 0.5
        if step == 6:
            for optimizer in (theirs[2], mine[2]):
                own_state_twice(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(own, ours, strict=True))
    assert [o.param_groups[0]["lr"] for o in theirs] == [o.param_groups[0]["lr"] for o in mine]
    assert [o.state[p]["step"] for o, p in zip(mine, ours, strict=True)] == [STEPS] * len(ours)


def test_leaves_of_different_age_are_counted_apart():
    own, ours = leaves_of(), leaves_of()
    theirs, mine = [ClippedAdam([p]) for p in own], [ClippedAdam([p]) for p in ours]
    for optimizers, leaves in ((theirs, own), (mine, ours)):
        own_step(optimizers[:2], leaves, 0)
        own_step(optimizers, leaves, 1)
    update = Update(ours, mine)
    for step in range(2, STEPS):
        own_step(theirs, own, step)
        update(gradients(step, ours))
    assert all(torch.equal(a, b) for a, b in zip(own, ours, strict=True))


def test_leaves_of_two_precisions_are_moved_together():
    def mixed() -> list[Any]:
        return [*leaves_of()[:2], *leaves_of(torch.float64)[2:]]

    own, ours = mixed(), mixed()
    theirs, mine = Adam(own, lr=0.1), Adam(ours, lr=0.1)
    own_step([theirs], own, 0)
    own_step([mine], ours, 0)
    update = Update(ours, [mine] * 4)
    own_step([theirs], own, 1)
    update(gradients(1, ours))
    for a, b in zip(own, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=named)
def test_the_state_is_that_of_the_optimizer(kind, options):
    """The same names, kinds and shapes: it is saved, and loaded into another optimizer."""
    twins = Twins(lambda leaves: kind(leaves, **options))
    twins.walk(2)

    def shape(value: Any) -> Any:
        return (value.dtype, value.shape) if isinstance(value, Tensor) else type(value)

    saved, expected = twins.mine.state_dict(), twins.theirs.state_dict()
    assert saved["param_groups"] == expected["param_groups"]
    assert saved["state"].keys() == expected["state"].keys()
    for place, entry in expected["state"].items():
        assert {k: shape(v) for k, v in saved["state"][place].items()} == {k: shape(v) for k, v in entry.items()}


# what it serves, and what it refuses


def test_it_serves_the_leaves_and_optimizers_that_it_was_made_for():
    leaves = leaves_of()
    optimizer = Adam(leaves)
    own_step([optimizer], leaves, 0)
    update, optimizers = Update(leaves, [optimizer] * 4), [optimizer] * 4
    assert update.serves(leaves, optimizers)
    assert not update.serves(leaves[:3], optimizers[:3])
    assert not update.serves(leaves[::-1], optimizers)
    assert not update.serves(leaves_of(), optimizers)
    assert not update.serves(leaves, [Adam(leaves)] * 4)
    assert not update.serves(leaves, None)


class OwnAdam(Adam):
    pass


def with_hook(leaves: list[Any]) -> Optimizer:
    optimizer = Adam(leaves)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def half(leaves: list[Any]) -> list[Any]:
    return [nn.Parameter(leaf.detach().to(torch.bfloat16)) for leaf in leaves]


def across(leaves: list[Any]) -> list[Any]:
    return [nn.Parameter(torch.randn(4, 3).t())]


REFUSED: dict[str, tuple[Make, Callable[[list[Any]], list[Any]], str]] = {
    "RMSprop": (RMSprop, list, "RMSprop has no fused kernel"),
    "NAdam": (NAdam, list, "NAdam has no fused kernel"),
    "a class of one's own": (OwnAdam, list, "OwnAdam has no fused kernel"),
    "hooks": (with_hook, list, "Adam has hooks"),
    "differentiable": (lambda leaves: Adam(leaves, differentiable=True), list, "Adam is differentiable"),
    "half precision": (Adam, half, "not of a float type"),
    "transposed": (Adam, across, "not contiguous"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_is_refused_with_a_reason(name):
    make, change, reason = REFUSED[name]
    leaves = change(leaves_of())
    optimizer = make(leaves)
    if name != "differentiable":  # (whose step wants leaves that it may write to)
        own_step([optimizer], leaves, 0)
    else:
        for leaf in leaves:
            optimizer.state[leaf] = {"step": torch.ones(()), "exp_avg": leaf.data, "exp_avg_sq": leaf.data}
    refusal = Update.refuses(leaves, [optimizer] * len(leaves))
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(("kind", "options"), [(Adam, {}), (SGD, {"momentum": 0.9}), (Adagrad, {}), (ClippedAdam, {})])
def test_state_must_be_there(kind, options):
    leaves = leaves_of()
    optimizer = kind(leaves, lr=0.1, **options)
    if kind is Adagrad:  # makes its state at once
        optimizer.state.clear()
    assert "has no state for a parameter yet" in Update.refuses(leaves, [optimizer] * 4)
    if kind is not Adagrad:
        own_step([optimizer], leaves, 0)
        assert Update.refuses(leaves, [optimizer] * 4) is None


def test_plain_gradient_descent_needs_no_state():
    leaves = leaves_of()
    assert Update.refuses(leaves, [SGD(leaves, lr=0.1)] * 4) is None


def test_the_group_of_an_older_pyro_has_fewer_options():
    """Pyro 1.9.1 knows no centered variance, and so neither does a group, nor a state that was saved there."""
    ends = []
    for is_older in (False, True):
        leaf = torch.ones(3, requires_grad=True)
        optimizer = ClippedAdam([leaf], lr=0.1)
        leaf.grad = torch.tensor([1.0, -2.0, 3.0])
        optimizer.step()
        if is_older:
            optimizer.param_groups[0].pop("centered_variance", None)
        update = Update([leaf], [optimizer])
        for _ in range(3):
            update([torch.tensor([1.0, 2.0, -30.0])])
        ends.append(leaf.tolist())
    assert ends[0] == ends[1]
