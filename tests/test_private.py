"""Private names of torch and Pyro: each may go, and fits go on; and the compiler is imported by who compiles."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.optim import Adam
from torch import Tensor

import ppl_vae
from ppl_vae import _private as private
from ppl_vae.capture import CaptureError, FallbackWarning, matmul, missing_compiler
from ppl_vae.training import compilation

ROOT = Path(__file__).parents[1]
ADDRESSES = [(table, name) for table in ("_TRACING", "_UPDATING", "_COMPILING") for name in getattr(private, table)]
MEMBERS = [(kind, name) for kind, (_, names) in private._MEMBERS.items() for name in names]


def model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    mean = pyro.param("mean", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, 1.0))


def forget() -> None:
    """Forget what was looked up before."""
    for known in (private.missing, missing_compiler, matmul.library):
        known.cache_clear()
    for table in (private._TRACING, private._UPDATING, private._COMPILING, private._OPTIONAL):
        for name in table:
            vars(private).pop(name, None)


@pytest.fixture
def forgetful(monkeypatch):
    yield monkeypatch
    monkeypatch.undo()
    forget()


def remove(monkeypatch, table, name):
    """As if a library had renamed it; what it is called there."""
    forget()
    address = getattr(private, table)[name]
    monkeypatch.setitem(getattr(private, table), name, f"{address}_gone")
    return address.replace(":", ".") + "_gone"


def steps(**options) -> tuple[ppl_vae.CompiledSVI, list[float]]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = ppl_vae.CompiledSVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO(), **options)
    return svi, [svi.step(torch.ones(5)) for _ in range(4)]


@pytest.fixture
def own_store():
    with pyro.get_param_store().scope(), torch.random.fork_rng([]):
        yield


def test_every_name_is_there():
    assert private.missing() is None
    assert private.missing(compiler=True) is None
    assert all(getattr(private, name) is not None for name in private._OPTIONAL)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        private.nonsense  # noqa: B018


@pytest.mark.parametrize("table, name", ADDRESSES)
def test_without_a_name_steps_are_eager_and_say_so(table, name, forgetful, own_store):
    expected = steps(mode="eager")[1]
    gone = remove(forgetful, table, name)
    with pytest.warns(FallbackWarning, match=rf"eager for every call: (torch|pyro) [\w.+]+ has no {gone}") as said:
        svi, losses = steps()
    assert losses == expected
    assert len(said) == 1
    assert gone in str(svi.explain())


@pytest.mark.parametrize("kind, name", MEMBERS)
def test_without_a_member_steps_are_eager_and_say_so(kind, name, forgetful, own_store):
    expected = steps(mode="eager")[1]
    forget()
    forgetful.setitem(private._MEMBERS, kind, (SimpleNamespace, (name,)))  # an object that does not have it
    with pytest.warns(FallbackWarning, match=rf"every call: (torch|pyro) [\w.+]+ has no {kind}.{name}"):
        svi, losses = steps()
    assert losses == expected
    assert name in str(svi.explain())


def fitted(**options) -> ppl_vae.Fit:
    em = ppl_vae.VariationalEM(model, guide, **options)
    return em.fit(torch.arange(6.0), steps=12, batch_size=2, seed=3, progress=False)


@pytest.mark.parametrize("table, name", [("_TRACING", "make_fx"), ("_UPDATING", "global_pre_hooks"), ADDRESSES[-1]])
def test_without_a_name_a_fit_is_eager_and_says_so(table, name, forgetful):
    expected = fitted(compile=False)
    gone = remove(forgetful, table, name)
    forgetful.setattr(compilation, "WORTH", 1)
    with pytest.warns(FallbackWarning, match=rf"fit: eager for every call: .* has no {gone}"):
        fit = fitted()
    assert fit.history["objective"].tolist() == expected.history["objective"].tolist()


def test_who_requires_compiled_steps_is_told_the_name(forgetful, own_store):
    gone = remove(forgetful, "_TRACING", "make_fx")
    with pytest.raises(CaptureError, match=gone):
        steps(mode="require")
    with pytest.raises(CaptureError, match=gone):
        fitted(compile=True)


@pytest.mark.parametrize("name", ["CppBuilder", "CppTorchOptions", "pick_vec_isa"])
def test_without_the_builder_torch_makes_the_products(name, forgetful, tmp_path):
    remove(forgetful, "_OPTIONAL", name)
    forgetful.setattr(private, "cache_dir", lambda: str(tmp_path))  # where nothing has been built yet
    assert matmul.makers() == "torch"
    assert missing_compiler() is None


# what is imported


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_is_imported_without_the_hooks_of_optimizers():
    gone = "for name in ('_global_optimizer_pre_hooks', '_global_optimizer_post_hooks'): delattr(o, name)"
    said = "import ppl_vae.training, ppl_vae._private as p; print(p.missing())"
    code = f"import torch.optim.optimizer as o\n{gone}\n{said}"
    assert "has no torch.optim.optimizer._global_optimizer_pre_hooks" in python(code)


SCRIPT = """
import sys, tempfile, torch, pyro, pyro.distributions as dist, ppl_vae
from functools import partial
from torch.optim.lr_scheduler import StepLR

def model(x):
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

def guide(x):
    mean = pyro.param("mean", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(mean, 1.0))

x = torch.arange(6.0)
{do}
print(*(name for name in ("torch._inductor", "torch._dynamo", "sympy") if name in sys.modules))
"""
FIT = "fit = ppl_vae.VariationalEM(model, guide{options}).fit(x, steps=4, batch_size=2, progress=False)\n"
READ = """
with tempfile.TemporaryDirectory() as folder:
    fit.save(folder + "/run")
    pyro.clear_param_store()
    fit = ppl_vae.load(folder + "/run", model, guide)
    fit.elbo(x), fit.log_evidence(x), fit.encode(x), fit.sample(3)
"""


@pytest.mark.parametrize("options", ["", ", lr_scheduler=partial(StepLR, step_size=2)", ", clip_norm=1.0"])
def test_an_eager_run_is_without_the_compiler(options):
    assert python(SCRIPT.format(do=FIT.format(options=options))).split() == []


def test_what_is_read_back_and_judged_is_without_the_compiler():
    assert python(SCRIPT.format(do=FIT.format(options="") + READ)).split() == []


@pytest.mark.slow
def test_the_twin_a_compiled_run_has_the_compiler():
    assert "torch._inductor" in python(SCRIPT.format(do=FIT.format(options=", compile=True"))).split()


# torch.optim without torch's compiler

OPTIMIZERS = [
    functools.partial(torch.optim.Adam, fused=True),
    functools.partial(torch.optim.Adam, amsgrad=True),
    functools.partial(torch.optim.AdamW, foreach=True),
    functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    torch.optim.NAdam,
    torch.optim.Rprop,
]


def leaf_and(factory):
    leaf = torch.arange(1.0, 5.0, requires_grad=True)
    return leaf, factory([leaf], lr=0.1)


def moved(factory, step) -> Tensor:
    leaf, optimizer = leaf_and(factory)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for i in range(5):
        leaf.grad = torch.sin(leaf.detach() + i)
        step(optimizer)
        scheduler.step()  # warns if no step has been counted
    return leaf.detach()


@pytest.mark.parametrize("factory", OPTIMIZERS)
def test_a_step_is_that_of_the_optimizer_to_the_bit(factory, monkeypatch):
    expected = moved(factory, lambda optimizer: optimizer.step())
    monkeypatch.setattr(private, "_is_loaded", lambda: False)
    assert torch.equal(moved(factory, private.step), expected)


class Counting(torch.optim.SGD):
    count = 0

    def step(self, closure=None):
        self.count += 1
        return super().step(closure)


@pytest.mark.parametrize("loaded", [False, True])
def test_what_the_caller_puts_around_a_step_is_called(loaded, monkeypatch):
    monkeypatch.setattr(private, "_is_loaded", lambda: loaded)
    _, optimizer = leaf_and(torch.optim.SGD)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    private.step(optimizer)
    _, plain = leaf_and(torch.optim.SGD)
    plain.step = lambda: calls.append("own")  # type: ignore[method-assign]
    private.step(plain)
    _, counting = leaf_and(Counting)
    private.step(counting)
    assert calls == ["hook", "own"]
    assert counting.count == 1


def test_a_wrapper_of_the_class_is_called(monkeypatch):
    monkeypatch.setattr(private, "_is_loaded", lambda: False)
    calls = []
    theirs = torch.optim.SGD.step

    @functools.wraps(theirs)
    def wrapped(self, closure=None):
        calls.append("class")
        return theirs(self, closure)

    wrapped.hooked = True
    monkeypatch.setattr(torch.optim.SGD, "step", wrapped)
    private.step(leaf_and(torch.optim.SGD)[1])
    assert calls == ["class"]


def test_optimizers_are_made_without_a_trace(monkeypatch):
    monkeypatch.setattr(private, "_is_loaded", lambda: False)
    inner = [getattr(torch.optim.Optimizer, name).__wrapped__ for name in private._WRAPPED]
    before = [dict(vars(fn)) for fn in inner]
    with pytest.raises(ValueError, match="Invalid learning rate"), private.without_compiler():
        torch.optim.Adam([torch.zeros(1)], lr=-1.0)
    assert [dict(vars(fn)) for fn in inner] == before


def test_a_torch_that_has_no_shields_is_left_alone(monkeypatch):
    monkeypatch.setattr(private, "_is_loaded", lambda: False)
    monkeypatch.setattr(private, "_WRAPPED", ("register_step_pre_hook",))
    with private.without_compiler():
        assert leaf_and(torch.optim.Adam)[1].param_groups
