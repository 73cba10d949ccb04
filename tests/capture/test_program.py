"""The life of one signature: compared with the eager step for life, and where they differ the eager one counts."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from capture.tiny import make, own_store, parameters, rows, run_by_torch
from pyro.infer import SVI
from runs import same_bits
from torch import Tensor, nn

from ppl_vae import CompiledSVI
from ppl_vae.capture import CaptureError, FallbackWarning, Program, Record, Watch, backend, engine, missing_compiler
from ppl_vae.capture.compare import size
from ppl_vae.capture.program import COMPILED, EAGER, GRAPH

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
THIS = re.escape(__file__)


class Net(nn.Module):
    """Weights, and a running mean that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
        self.still = nn.Parameter(torch.ones(2))  # has no gradient
        self.register_buffer("mean", torch.zeros(3))
        self.beta = 1.0

    def gradients(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """What a step does up to the gradients: a loss on noise, the gradient of each leaf."""
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        loss = (((x - self.mean) @ self.weight + torch.randn(len(x))) ** 2).mean() * self.beta
        (grad,) = torch.autograd.grad(loss, [self.weight])
        return [loss.detach()], [grad, None]


def program(net: Net | None = None, forward: Any = None) -> tuple[Program, Net, list[str]]:
    net, told = net or Net(), []
    return Program(Record("float32[6, 3]"), forward or net.gradients, Watch({"net": net}), tell=told.append), net, told


def compiled(monkeypatch: pytest.MonkeyPatch, spoil: Any = None) -> tuple[Program, Net, list[str]]:
    """A program whose graph torch runs; ``spoil`` makes something of it wrong."""
    run_by_torch(monkeypatch, spoil)
    made, net, told = program()
    made.trace([X])
    made.compile([X])
    assert made.record.status == COMPILED
    return made, net, told


def stepped(made: Program, net: Net, steps: int) -> list[list[Tensor]]:
    """Values, gradients, the buffer and the next noise of each step: Pyro's own where there is no program any more."""
    found = []
    for _ in range(steps):
        result = made([X]) if made.ready else None
        values, grads = result if result is not None else net.gradients(X)
        found.append([values[0].clone(), grads[0].clone(), net.mean.clone(), torch.get_rng_state()])
        with torch.no_grad():
            net.weight.sub_(0.01 * grads[0].nan_to_num(0.0, 0.0, 0.0))
    return found


def eager(steps: int) -> list[list[Tensor]]:
    """The same steps, all eager, after one that was traced."""
    torch.manual_seed(0)
    net = Net()
    net.gradients(X)
    return stepped(program(net)[0], net, steps)


# a good runner


def test_states_follow_each_other(monkeypatch):
    run_by_torch(monkeypatch)
    made, _, told = program()
    assert (made.record.status, made.ready) == (EAGER, False)
    assert made.trace([X]) is not None
    assert (made.record.status, made.ready, made.record.graph_steps) == (GRAPH, True, 1)
    assert made.record.nodes > 5
    assert made([X]) is not None
    assert made.record.graph_steps == 2
    made.compile([X])
    assert (made.record.status, made.record.reason) == (COMPILED, "")
    for _ in range(5):
        assert made([X]) is not None
    assert (made.record.compiled_steps, made.record.eager_steps, made.given_up, told) == (5, 0, False, [])


def test_steps_are_the_eager_ones_to_the_bit(monkeypatch):
    torch.manual_seed(0)
    made, net, told = compiled(monkeypatch)
    for ours, theirs in zip(stepped(made, net, 20), eager(20), strict=True):
        assert all(map(same_bits, ours, theirs))
    assert (told, made.record.compiled_steps, made.record.worst_error) == ([], 20, 0.0)


def test_the_graph_before_it_is_compiled_is_the_eager_step_too():
    torch.manual_seed(0)
    made, net, _ = program()
    made.trace([X])
    for ours, theirs in zip(stepped(made, net, 5), eager(5), strict=True):
        assert all(map(same_bits, ours, theirs))
    assert made.record.graph_steps == 6


def test_steps_1_2_4_8_and_so_on_are_compared(monkeypatch):
    made, net, _ = compiled(monkeypatch)
    eager_calls, kept = [], made.forward

    def forward(*tensors: Tensor) -> Any:
        eager_calls.append(made.record.compiled_steps + 1)
        return kept(*tensors)

    made.forward = forward
    stepped(made, net, 70)
    assert eager_calls == [1, 2, 4, 8, 16, 32, 64]
    assert made.record.last_audit == 64


def test_a_trace_can_be_undone():
    made, net, _ = program()
    net.gradients(X)
    torch.manual_seed(3)
    mean, noise, leaf = net.mean.clone(), torch.get_rng_state(), net.weight.detach().clone()
    result = made.trace([X], undo=True)
    assert same_bits(net.mean, mean) and torch.equal(torch.get_rng_state(), noise) and same_bits(net.weight, leaf)
    assert made.ready and made.record.graph_steps == 0
    again = made([X])
    assert result is not None and again is not None
    assert same_bits(result[0][0], again[0][0])
    assert not same_bits(net.mean, mean)


# a bad runner: arguments are the input, then what the graph closes over; outputs are the loss, then the gradient


def wrong_gradient(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    return [outputs[0], outputs[1] * 1.001]


def a_wrong_entry(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    outputs[1][1] += 1e-3 * outputs[1].abs().max()
    return outputs


def an_infinite_entry(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    outputs[1][0] = torch.inf
    return outputs


def wrong_loss(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    return [outputs[0] * 1.001, outputs[1]]


def wrong_buffer(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    next(t for t in tensors[1:] if t.shape == (3,) and not t.requires_grad).mul_(1.001)
    return outputs


def one_more_draw(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    torch.rand(1)
    return outputs


def no_draw(outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(7)
    return outputs


WRONG: dict[str, tuple[Callable[[list[Tensor], list[Tensor]], list[Tensor]], str]] = {
    "gradient": (wrong_gradient, "the gradients differ by {of_gradients:.1e} of the largest entry (1e-05 is allowed)"),
    "one entry": (a_wrong_entry, "the gradients differ by {of_gradients:.1e}"),
    "infinity": (an_infinite_entry, "the gradients differ by inf"),
    "loss": (wrong_loss, "the loss differ by 1.0e-03"),
    "buffer": (wrong_buffer, "the buffers differ by 1.0e-03"),
    "one draw more": (one_more_draw, "it draws other random numbers"),
    "noise of its own": (no_draw, "it draws other random numbers"),
}
CAUGHT_AT = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 16}
UNCHECKED = {
    1: "; every compiled step that was kept has been compared",
    2: "; every compiled step that was kept has been compared",
    3: "; compiled steps 3 to 3 came after the last good comparison",
    4: "; compiled steps 3 to 3 came after the last good comparison",
    5: "; compiled steps 5 to 7 came after the last good comparison",
    8: "; compiled steps 5 to 7 came after the last good comparison",
    9: "; compiled steps 9 to 15 came after the last good comparison",
}


@pytest.mark.parametrize("begin", CAUGHT_AT)
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_result_is_caught_and_the_eager_one_counts(what, begin, monkeypatch):
    fault, reason = WRONG[what]
    caught = CAUGHT_AT[begin]
    torch.manual_seed(0)
    made, net, told = compiled(
        monkeypatch, lambda n, outputs, tensors: fault(outputs, tensors) if n >= begin else outputs
    )
    stepped(made, net, caught - 1)
    assert told == [] and made.ready
    # from the same place as the program, an eager step
    twin = Net()
    twin.load_state_dict(net.state_dict())
    noise = torch.get_rng_state()
    values, grads = twin.gradients(X)
    after = torch.get_rng_state()
    torch.set_rng_state(noise)
    present = size(grads)
    of_gradients = 1e-3 * present / max(made._size, present)  # relative to the largest gradients seen so far
    result = made([X])
    assert result is not None
    assert same_bits(result[0][0], values[0]) and same_bits(result[1][0], grads[0]) and result[1][1] is None
    assert same_bits(net.mean, twin.mean)
    assert torch.equal(torch.get_rng_state(), after)
    assert not made.ready and made.given_up and made.record.status == EAGER
    assert (made.record.compiled_steps, made.record.eager_steps) == (caught - 1, 1)
    (message,) = told
    assert message.startswith(
        f"float32[6, 3]: compiled step {caught} is not the eager one: {reason.format(of_gradients=of_gradients)}"
    )
    assert message.endswith(UNCHECKED[begin])
    assert made.record.reason in message


@pytest.mark.parametrize("factor", [1 + 2e-6, 1 - 2e-6])
def test_an_error_of_rounding_is_no_fault(factor, monkeypatch):
    made, net, told = compiled(monkeypatch, lambda n, outputs, tensors: [outputs[0] * factor, outputs[1] * factor])
    stepped(made, net, 20)
    assert told == [] and made.record.compiled_steps == 20
    assert made.record.worst_error == pytest.approx(2e-6, rel=0.2)


def test_in_float64_the_allowed_error_is_smaller(monkeypatch):
    run_by_torch(monkeypatch, lambda n, outputs, tensors: [outputs[0], outputs[1] * (1 + 1e-8)])
    net = Net().double()
    made, _, told = program(net)
    net.gradients = made.forward = lambda x: Net.gradients(net, x)  # type: ignore[method-assign]
    made.trace([X.double()])
    made.compile([X.double()])
    made([X.double()])
    assert len(told) == 1
    assert "the gradients differ by 1.0e-08 of the largest entry (1e-10 is allowed)" in told[0]


def test_what_no_watch_can_see_is_caught_before_anything_is_compiled():
    """The position of an iterator; the graph is compared with the eager step as its compiled form is."""
    hidden = iter([1.0, 1.0, 1.0, 2.0])

    def forward(x: Tensor) -> Any:
        values, grads = net.gradients(x)
        return [values[0] * next(hidden)], grads

    net = Net()
    made, _, told = program(net, forward)
    made.trace([X])
    found = [made([X]) for _ in range(3)]
    assert all(result is not None for result in found)
    assert not made.ready
    (message,) = told
    assert "graph step 4 is not the eager one: the loss differ by 5.0e-01" in message


# a runner that fails


@pytest.mark.parametrize("at", [1, 2])
def test_a_runner_that_raises_is_given_up(at, monkeypatch):
    def fails(n: int, outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        if n == at:
            raise RuntimeError("a kernel is missing\nand more that nobody reads")
        return outputs

    torch.manual_seed(0)
    made, net, told = compiled(monkeypatch, fails)
    for ours, theirs in zip(stepped(made, net, 6), eager(6), strict=True):
        assert all(map(same_bits, ours, theirs))  # what the runner has changed before it failed is put back
    assert told == [f"float32[6, 3]: compiled step {at} raised RuntimeError: a kernel is missing"]
    assert made.record.compiled_steps == at - 1


def test_an_interrupt_passes_and_everything_is_as_before_the_step(monkeypatch):
    def interrupted(n: int, outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        raise KeyboardInterrupt

    made, net, told = compiled(monkeypatch, interrupted)
    mean, noise = net.mean.clone(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        made([X])
    assert same_bits(net.mean, mean) and torch.equal(torch.get_rng_state(), noise)
    assert told == [] and made.ready and made.record.compiled_steps == 0


def test_an_error_of_the_model_in_a_comparison_leaves_everything_as_before(monkeypatch):
    made, net, _ = compiled(monkeypatch)
    stepped(made, net, 2)
    mean, noise, kept = net.mean.clone(), torch.get_rng_state(), made.forward

    def broken(*tensors: Tensor) -> Any:
        kept(*tensors)
        raise ValueError("an argument check of Pyro's")

    made.forward = broken
    assert made([X]) is not None  # the third is not compared
    net.mean.copy_(mean)
    torch.set_rng_state(noise)
    assert made([X]) is None  # to be made eagerly, where the model says it itself
    assert same_bits(net.mean, mean) and torch.equal(torch.get_rng_state(), noise)


# what cannot be captured


def test_constants_that_change_are_seen():
    index = torch.tensor([True, False, True])

    def forward(x: Tensor) -> Any:
        loss = (net.weight[index] ** 2).sum() + x.sum()
        return [loss.detach()], [*torch.autograd.grad(loss, [net.weight]), None]

    net = Net()
    made, _, told = program(net, forward)
    made.trace([X])
    assert made([X]) is not None
    index[1] = True
    assert made([X]) is None
    assert told == ["float32[6, 3]: a tensor whose values were taken as constants has changed"]


def looks_at_a_value(net: Net, x: Tensor) -> Any:
    net.gradients(x)
    if net.weight.sum() > 0:
        raise AssertionError("a trace cannot come here")


def draws_from_numpy(net: Net, x: Tensor) -> Any:
    values, grads = net.gradients(x)
    return [values[0] * np.random.rand()], grads


def draws_from_python(net: Net, x: Tensor) -> Any:
    values, grads = net.gradients(x)
    return [values[0] * random.random()], grads


def selects_rows(net: Net, x: Tensor) -> Any:
    return net.gradients(x[x[:, 0] > 0])


def has_a_bug(net: Net, x: Tensor) -> Any:
    net.gradients(x)
    return x @ net.weight[:2]


def asks_for_an_item(net: Net, x: Tensor) -> Any:
    net.gradients(x)
    return [torch.tensor(float(x.sum()))], [None, None]


def line(fn: Callable[..., Any], after: int) -> str:
    return rf"\({THIS}:{fn.__code__.co_firstlineno + after}, in {fn.__name__}\)"


UNTRACEABLE: dict[str, tuple[Callable[..., Any], str]] = {
    "a branch": (looks_at_a_value, "it looks at the value of a tensor, .*" + line(looks_at_a_value, 2)),
    "an item": (asks_for_an_item, "it looks at the value of a tensor, .*" + line(asks_for_an_item, 2)),
    "noise of numpy": (draws_from_numpy, "it draws from Python's or NumPy's random generator"),
    "noise of Python": (draws_from_python, "it draws from Python's or NumPy's random generator"),
    "rows by a mask": (selects_rows, "a shape depends on data: rows or entries are selected by a mask"),
    "a bug": (has_a_bug, "tracing it raised RuntimeError: .*" + line(has_a_bug, 2)),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_captured_leaves_everything_as_it_was_and_is_located(name):
    forward, reason = UNTRACEABLE[name]
    net = Net()
    made, _, told = program(net, lambda x: forward(net, x))
    net.gradients(X)
    net.weight.grad = torch.full((3,), 7.0)
    random.seed(1)
    np.random.seed(1)

    def everything() -> list[Any]:
        noise = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
        return [net.mean.tolist(), net.weight.tolist(), net.weight.grad.tolist(), *noise]

    before = everything()
    assert made.trace([X]) is None
    assert everything() == before
    assert made.given_up and not made.ready
    assert re.search(reason, made.record.reason), made.record.reason
    assert told == [f"float32[6, 3]: {made.record.reason}"]


def test_rows_selected_in_a_function_are_located():
    net = Net()
    made, _, _ = program(net, lambda x: selects_rows(net, x))
    made.trace([X])
    assert re.search(f"{THIS}.*{selects_rows.__code__.co_firstlineno + 1}, in selects_rows", made.record.reason)


def test_an_interrupt_while_tracing_passes_and_leaves_everything_as_it_was():
    net = Net()

    def forward(x: Tensor) -> Any:
        net.gradients(x)
        raise KeyboardInterrupt

    made, _, told = program(net, forward)
    noise = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        made.trace([X])
    assert torch.equal(torch.get_rng_state(), noise) and not net.mean.any()
    assert told == [] and not made.given_up


def test_a_step_that_changes_python_state_is_made_but_not_kept():
    net = Net()

    def forward(x: Tensor) -> Any:
        net.beta *= 0.9
        return net.gradients(x)

    made, _, told = program(net, forward)
    assert made.trace([X]) is not None  # it was a step
    assert not made.ready
    assert told == ["float32[6, 3]: a step changes python state, which a graph cannot: net.beta"]


# what cannot be compiled


@pytest.fixture
def no_compiler(monkeypatch):
    for module in (backend, engine):
        monkeypatch.setattr(module, "missing_compiler", lambda: "no C++ compiler was found; install g++")


def test_without_a_compiler_steps_are_eager(no_compiler):
    made, _, told = program()
    made.trace([X])
    made.compile([X])
    assert not made.ready and made.given_up
    assert told == ["float32[6, 3]: no C++ compiler was found; install g++"]


def test_without_a_compiler_a_run_is_that_of_pyro_with_one_warning(no_compiler):
    def run(kind: Any, **options: Any) -> tuple[list[float], dict[str, Tensor]]:
        with own_store():
            torch.manual_seed(2)
            svi = make(kind, **options)
            return [svi.step(rows()) for _ in range(6)], parameters(svi)

    losses, leaves = run(SVI)
    with pytest.warns(FallbackWarning, match="no C\\+\\+ compiler was found") as seen:
        ours, found = run(CompiledSVI)
    assert len(seen) == 1
    assert seen[0].filename == __file__  # the line of the caller, not one of ours
    assert ours == losses
    assert all(same_bits(found[name], leaf) for name, leaf in leaves.items())
    with pytest.raises(CaptureError, match="no C\\+\\+ compiler was found"):
        run(CompiledSVI, mode="require")


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler

    for cached in (missing_compiler, *([get_cpp_compiler] if hasattr(get_cpp_compiler, "cache_clear") else [])):
        cached.cache_clear()
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}):
        reason = missing_compiler()
    missing_compiler.cache_clear()
    assert reason is not None
    assert re.match(r"no C\+\+ compiler was found .*; install g\+\+ or clang, or set CXX$", reason)


def test_a_compiler_that_fails_is_no_error_of_the_run(monkeypatch):
    def fails(*_: Any) -> Any:
        raise RuntimeError("out of registers\nline 2")

    monkeypatch.setattr(backend, "_ahead_of_time", fails)
    monkeypatch.setattr(backend, "_in_process", fails)
    made, _, told = program()
    made.trace([X])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.compile([X])
    (message,) = told
    assert "the compiler failed (RuntimeError: out of registers; RuntimeError: out of registers)" in message


def test_a_spoiled_step_of_a_compiled_svi_warns_with_its_number(monkeypatch):
    def spoil(n: int, outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        return [out if n < 3 else out * 1.01 for out in outputs]

    run_by_torch(monkeypatch, spoil)
    with own_store():
        svi = make()
        with pytest.warns(FallbackWarning) as seen:
            assert len([svi.step(rows()) for _ in range(10)]) == 10
        (record,) = svi.explain().rows
    assert len(seen) == 1
    assert str(seen[0].message) == (
        "CompiledSVI: eager for float32[6, 4]: compiled step 4 is not the eager one: the gradients differ by 1.0e-02 "
        "of the largest entry (1e-05 is allowed); compiled steps 3 to 3 came after the last good comparison"
    )
    assert (record.status, record.compiled_steps) == (EAGER, 3)
