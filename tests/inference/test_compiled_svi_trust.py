"""What would be silently wrong if captured as it looks: each agrees with Pyro's SVI, or stays eager and says so."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import DIM, ROWS, Guide, Model, own_store, rows, run_by_torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from ppl_vae import CompiledSVI
from ppl_vae.capture import FallbackWarning
from ppl_vae.capture.compare import difference

X = rows(ROWS)
Step = Callable[[SVI, int], Any]


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    run_by_torch(monkeypatch)


def losses_of(kind: type[SVI], build: Callable[[], tuple[Any, Any]], step: Step, optim: Any, count: int) -> list[float]:
    with own_store(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        torch.manual_seed(3)
        model, guide = build()
        options = {"wait": True} if kind is CompiledSVI else {}
        svi = kind(model, guide, optim(), Trace_ELBO(), **options)
        return [step(svi, i) for i in range(count)]


def agree(build: Callable[[], tuple[Any, Any]], step: Step, optim: Any = None, count: int = 40) -> None:
    optim = optim or (lambda: pyro.optim.Adam({"lr": 0.02}))
    expected = losses_of(SVI, build, step, optim, count)
    assert losses_of(CompiledSVI, build, step, optim, count) == pytest.approx(expected, rel=1e-4)


def by_order(guide: bool) -> Callable[..., None]:
    """Walks along **kwargs, so that the order of the names counts."""

    def fn(**columns: Tensor) -> None:
        factor = 1.0
        for name, x in columns.items():
            loc = pyro.param(f"loc_{name}", torch.zeros(2)) if guide else torch.zeros(2)
            with pyro.plate(f"data_{name}", len(x)):
                z = pyro.sample(f"z_{name}", dist.Normal(factor * loc, 1.0).to_event(1))
                if not guide:
                    weight = pyro.param("weight", torch.ones(2, DIM))
                    pyro.sample(f"x_{name}", dist.Normal(factor * z @ weight, 1.0).to_event(1), obs=x)
            factor *= 10

    return fn


def test_the_order_of_keywords_is_the_callers():
    agree(lambda: (by_order(False), by_order(True)), lambda svi, i: svi.step(b=X, a=2 * X))


@pytest.mark.parametrize(
    "make_beta", [lambda: itertools.count(), lambda: iter(list(range(1000))), lambda: (i for i in range(1000))]
)
def test_a_schedule_in_an_iterator_goes_on(make_beta):
    def build() -> tuple[Any, Any]:
        counter, model = make_beta(), Model()

        def scaled(x: Tensor) -> None:
            with poutine.scale(scale=0.1 if next(counter) < 20 else 1.0):
                model(x)

        return scaled, Guide()

    agree(build, lambda svi, i: svi.step(X))


def test_a_legacy_generator_of_numpy_goes_on():
    def build() -> tuple[Any, Any]:
        noise, model = np.random.RandomState(0), Model()

        def scaled(x: Tensor) -> None:
            with poutine.scale(scale=1.0 if noise.rand() < 0.2 else 0.1):
                model(x)

        return scaled, Guide()

    agree(build, lambda svi, i: svi.step(X))


def test_clipped_adam_counts_the_steps_of_each_leaf():
    def build() -> tuple[Any, Any]:
        model = Model()

        def with_more(x: Tensor, y: Tensor | None = None) -> None:
            model(x)
            if y is not None:
                extra = pyro.param("extra", torch.zeros(DIM))
                pyro.sample("y", dist.Normal(extra, 1.0).to_event(1), obs=y)

        guide = Guide()
        return with_more, lambda x, y=None: guide(x)

    def step(svi: SVI, i: int) -> float:
        return svi.step(X) if i % 3 == 1 else svi.step(X, X[0])

    agree(build, step, lambda: pyro.optim.ClippedAdam({"lr": 0.02}), count=90)


@pytest.mark.filterwarnings("ignore:grad and param do not obey")  # torch, of the eager step
def test_a_weight_that_is_laid_anew_is_seen():
    guide: list[Guide] = []

    def build() -> tuple[Any, Any]:
        guide[:] = [Guide()]
        return Model(), guide[0]

    def step(svi: SVI, i: int) -> float:
        if i == 10:
            weight = guide[0].encoder.weight
            weight.data = weight.data.T.contiguous().T * 1.1
        return svi.step(X)

    agree(build, step)


def without_a_version(beta: Tensor) -> None:
    beta.data.fill_(1.0)


@pytest.mark.parametrize("change", [lambda beta: beta.fill_(1.0), without_a_version], ids=["fill_", ".data.fill_"])
@pytest.mark.parametrize("read", [lambda t: t.item(), float, lambda t: t.tolist(), lambda t: float(t.numpy())])
def test_a_number_read_from_a_tensor_is_read_again(read, change):
    beta = torch.tensor(0.1)

    def build() -> tuple[Any, Any]:
        beta.fill_(0.1)
        model = Model()

        def scaled(x: Tensor) -> None:
            with poutine.scale(scale=read(beta)):
                model(x)

        return scaled, Guide()

    def step(svi: SVI, i: int) -> float:
        if i == 12:
            change(beta)
        return svi.step(X)

    agree(build, step, count=15)


def test_a_number_among_the_arguments_that_always_changes_is_told_and_kept_by_nobody():
    model = Model()

    def scaled(x: Tensor, beta: float) -> None:
        with poutine.scale(scale=beta):
            model(x)

    guide = Guide()
    with own_store(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        svi = CompiledSVI(scaled, lambda x, beta: guide(x), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), wait=True)
        for i in range(120):
            svi.step(X, 0.001 * (i + 1))
        found = svi.explain().rows
    assert len(found) < 30
    told = [str(w.message) for w in seen if issubclass(w.category, FallbackWarning)]
    assert len(told) == 1 and "changes from step to step" in told[0]


def test_special_values_and_single_buffers_count_in_a_comparison():
    inf, nan = float("inf"), float("nan")
    for ours, theirs in (([-inf, 1.0], [inf, 1.0]), ([nan, 1.0], [inf, 1.0]), ([1.0, 1.0], [nan, 1.0])):
        assert difference([torch.tensor(ours)], [torch.tensor(theirs)]) == inf
    assert difference([torch.tensor([inf, nan, 1.0])], [torch.tensor([inf, nan, 1.0])]) == 0


def test_a_large_buffer_hides_no_small_one():
    class Shifting(Guide):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("raw", torch.full((3,), 1e7))
            self.register_buffer("running", torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            self.running.mul_(0.5).add_(x.abs().mean())
            super().forward(x + 0 * self.running)

    with own_store():
        guide = Shifting()
        svi = CompiledSVI(Model(), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), wait=True)
        for _ in range(6):
            svi.step(X)
        found = svi.program((X,), {})
        assert found is not None
        program, _ = found
        wrong = program._runner

        def spoiled(tensors: list[Tensor]) -> list[Tensor]:
            outputs = wrong(tensors)
            guide.running.add_(0.5)
            return outputs

        program._runner, program._unproven = spoiled, 1
        with pytest.warns(FallbackWarning, match="the buffers differ"):
            svi.step(X)
