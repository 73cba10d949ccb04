"""What an exact expectation over K classes costs: against a Python loop over the classes, and Pyro's own enumeration.

One gradient of the ELBO of a discrete VAE with one latent of K classes, all contestants on the same networks and batch:

- loop: a hand-written sum, the decoder called once for each class and datum (K calls on B rows);
- Pyro: ``TraceEnum_ELBO``, eager, on the same model and guide;
- ours: ``ELBO()`` on a guide marked for enumeration, eager; in pieces of at most so many rows; captured and compiled.

Milliseconds are medians of interleaved rounds in one process on one thread. Memory is the most that tensors held at a
time while the gradient was made, counted storage by storage (of a compiled graph it cannot be seen from outside).

    python benchmarks/enumeration.py            (a few minutes)
    python benchmarks/enumeration.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import time
import warnings
import weakref
from collections.abc import Callable
from statistics import median
from typing import Any

import pyro
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppl_vae import ELBO, CompiledSVI, Pair
from ppl_vae.guides import EnumeratedCategorical
from ppl_vae.models import DiscreteVAE
from ppl_vae.nn import MLP

BATCH, PIXELS = 100, 64


class Peak(TorchDispatchMode):
    """Counts the bytes of every storage that operations make, while it lives."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def networks(classes: int, hidden: int) -> tuple[MLP, MLP]:
    torch.manual_seed(0)
    return MLP(classes, PIXELS, hidden=(hidden,)), MLP(PIXELS, classes, hidden=(hidden,))


def loop(classes: int, hidden: int, x: Tensor) -> Callable[[], float]:
    """The sum as one writes it down: class by class."""
    decoder, encoder = networks(classes, hidden)

    def gradient() -> float:
        log_q = encoder(x).log_softmax(-1)
        total: Any = 0.0
        for k in range(classes):
            code = torch.zeros(len(x), classes)
            code[:, k] = 1.0
            log_p = -torch.nn.functional.binary_cross_entropy_with_logits(decoder(code), x, reduction="none").sum(-1)
            total = total + (log_q[:, k].exp() * (log_p - log_q[:, k])).sum()
        loss = -(total - len(x) * torch.log(torch.tensor(float(classes))))
        _clear(decoder, encoder)
        loss.backward()
        return float(loss)

    return gradient


def by_pyro(classes: int, hidden: int, x: Tensor) -> Callable[[], float]:
    model, guide = _pair(classes, hidden)
    loss = TraceEnum_ELBO(max_plate_nesting=1)

    def gradient() -> float:
        _clear(model, guide)
        return float(loss.loss_and_grads(model, guide, x))

    return gradient


def ours(classes: int, hidden: int, x: Tensor, max_rows: int | None = None) -> Callable[[], float]:
    model, guide = _pair(classes, hidden, max_rows)
    pair, objective = Pair(model, guide).initialize(x), ELBO()
    batch = pair.rows(x).batch()
    leaves = {group: list(pair.parameters.of(group).values()) for group in ("theta", "phi")}

    def gradient() -> float:
        with pair.scope():
            return -len(x) * float(objective.gradients(pair, batch, leaves)[0])

    return gradient


def compiled(classes: int, hidden: int, x: Tensor) -> Callable[[], float]:
    """A whole step, with its Adam at rate 0: the others make the gradient alone."""
    svi = CompiledSVI(*_pair(classes, hidden), pyro.optim.Adam({"lr": 0.0}), ELBO(), wait=True)
    for _ in range(3):
        svi.step(x)
    return lambda: svi.step(x)


def _pair(classes: int, hidden: int, max_rows: int | None = None) -> tuple[DiscreteVAE, EnumeratedCategorical]:
    decoder, encoder = networks(classes, hidden)
    sizes = {"num_latents": 1, "num_classes": classes}
    options = {} if max_rows is None else {"max_rows": max_rows}
    return DiscreteVAE(decoder, likelihood="bernoulli", **sizes), EnumeratedCategorical(encoder, **sizes, **options)


def _clear(*modules: torch.nn.Module) -> None:
    for module in modules:
        module.zero_grad(set_to_none=True)


def peak(gradient: Callable[[], float]) -> float:
    """Megabytes at the most."""
    with Peak() as seen:
        gradient()
    return seen.most / 2**20


def timed(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Milliseconds by contestant, medians of interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, gradient in contestants.items():
            started = time.perf_counter()
            gradient()
            times[name].append(time.perf_counter() - started)
    return {name: 1e3 * median(found) for name, found in times.items()}


def table(classes: int, hidden: int, rounds: int, *, with_compiled: bool) -> None:
    x = (torch.rand(BATCH, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    rows = max(2, classes // 8) * BATCH
    contestants = {
        "loop over classes": loop(classes, hidden, x),
        "Pyro TraceEnum_ELBO": by_pyro(classes, hidden, x),
        "ours": ours(classes, hidden, x),
        f"ours, {rows} rows at once": ours(classes, hidden, x, rows),
    }
    memory = {name: peak(gradient) for name, gradient in contestants.items()}
    losses = {name: gradient() for name, gradient in contestants.items()}
    if with_compiled:
        contestants["ours, compiled step"] = compiled(classes, hidden, x)
        losses["ours, compiled step"] = contestants["ours, compiled step"]()
    times = timed(contestants, rounds)
    print(f"K = {classes}, batch {BATCH}, {PIXELS} pixels, hidden {hidden}")
    print(f"  {'':<24}{'ms':>9}{'of the loop':>13}{'of Pyro':>9}{'MB':>9}   loss")
    for name, ms in times.items():
        mb = f"{memory[name]:9.1f}" if name in memory else f"{'-':>9}"
        ratios = f"{ms / times['loop over classes']:13.3f}{ms / times['Pyro TraceEnum_ELBO']:9.2f}"
        print(f"  {name:<24}{ms:9.2f}{ratios}{mb}   {losses[name]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sizes = [(4, 8)] if options.smoke else [(10, 128), (50, 128), (500, 128)]
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        for classes, hidden in sizes:
            table(classes, hidden, 3 if options.smoke else 30, with_compiled=not options.smoke)


if __name__ == "__main__":
    main()
