"""Seconds per epoch of a VAE on binary digits: ours, a hand-written PyTorch loop, Pyro's SVI, in one process.

The same networks (64-128-128-8 and back), batches of 100, Adam at 1e-3. Rounds are interleaved, every other one
backwards; the figure is the median round. What counts are the ratios, for absolute times depend on the machine. The
last column is the ELBO of the last epoch: all do the same work, so all arrive at about the same place.

"fused" is torch's fused Adam, which ppl_vae takes by default. Pyro checks the arguments of every distribution in every
step unless told not to; ppl_vae does so in the first epoch only (which is the warm-up here), so Pyro is shown both
ways. Small steps of ppl_vae stay on one thread, whatever number torch is set to.

    python benchmarks/training_speed.py [--rounds 9] [--epochs 5] [--threads 1 2] [--json] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from ppl_vae import VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP

BATCH, LATENT, HIDDEN, LR = 100, 8, (128, 128), 1e-3
OURS, BY_HAND, PYRO = "ppl_vae", "PyTorch by hand", "Pyro SVI"
Epochs = Callable[[int], float]
"""Runs so many epochs and returns the mean ELBO of the last one, nats per datum."""


def networks() -> tuple[nn.Module, nn.Module]:
    return MLP(LATENT, 64, hidden=HIDDEN), MLP(64, 2 * LATENT, hidden=HIDDEN)


def pair() -> tuple[VAE, AmortizedNormal]:
    decoder, encoder = networks()
    return VAE(decoder, latent_dim=LATENT, likelihood="bernoulli"), AmortizedNormal(encoder, latent_dim=LATENT)


def by_hand(x: Tensor, *, fused: bool | None) -> Epochs:
    """The loop that a person writes: closed-form KL, one Adam over both networks."""
    decoder, encoder = networks()
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], lr=LR, fused=fused)

    def step(rows: Tensor) -> Tensor:
        loc, raw = encoder(rows).chunk(2, -1)
        scale = nn.functional.softplus(raw) + 1e-6
        z = loc + scale * torch.randn_like(scale)
        nll = nn.functional.binary_cross_entropy_with_logits(decoder(z), rows, reduction="none").sum(-1)
        kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
        loss = (nll + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach() * len(rows)

    def run(epochs: int) -> float:
        for _ in range(epochs):
            total = sum(step(x[index]) for index in torch.randperm(len(x)).split(BATCH))
        return -float(total) / len(x)

    return run


def by_pyro(x: Tensor, *, checked: bool) -> Epochs:
    """Pyro's own SVI on the very same model and guide."""
    svi = SVI(*pair(), pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    store: dict[str, Any] = {"params": {}, "constraints": {}}  # sharing Pyro's, the second of two SVIs would not learn

    def run(epochs: int) -> float:
        with pyro.get_param_store().scope(store), pyro.validation_enabled(checked):
            for _ in range(epochs):
                total = sum(svi.step(x[index]) for index in torch.randperm(len(x)).split(BATCH))
        return -total / len(x)

    return run


def by_us(x: Tensor) -> Epochs:
    """VariationalEM with its defaults."""
    fit = VariationalEM(*pair(), lr=LR, device="cpu").fit(x, epochs=1, batch_size=BATCH, progress=False)
    return lambda epochs: float(fit.resume(epochs=epochs, progress=False).history["elbo"].iloc[-1])


def contestants(x: Tensor) -> dict[str, Epochs]:
    return {
        OURS: by_us(x),
        BY_HAND: by_hand(x, fused=None),
        f"{BY_HAND}, fused": by_hand(x, fused=True),
        PYRO: by_pyro(x, checked=True),
        f"{PYRO}, unchecked": by_pyro(x, checked=False),
    }


def measure(threads: int, rounds: int, epochs: int) -> list[dict[str, float | str]]:
    """One row a contestant: the median seconds per epoch, rounds interleaved, and the ratios."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    runs = contestants(load_digits(binary=True).train)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    reached = {name: run(1) for name, run in runs.items()}  # warm-up
    for round_ in range(rounds):
        order = list(runs) if round_ % 2 == 0 else list(reversed(runs))
        for name in order:
            start = time.perf_counter()
            reached[name] = runs[name](epochs)
            seconds[name].append((time.perf_counter() - start) / epochs)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "threads": threads,
            "name": name,
            "seconds": median[name],
            "of_by_hand": median[name] / median[BY_HAND],
            "of_pyro": median[name] / median[PYRO],
            "elbo": reached[name],
        }
        for name in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5, help="epochs a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--smoke", action="store_true", help="one short round on the first number of threads")
    options = parser.parse_args()
    rounds, epochs, threads = options.rounds, options.epochs, options.threads
    if options.smoke:
        rounds, epochs, threads = 1, 1, threads[:1]
    rows = [row for count in threads for row in measure(count, rounds, epochs)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'threads':>7}  {'':<24}{'s / epoch':>10}{'of by hand':>12}{'of Pyro':>9}{'ELBO':>9}")
    for row in rows:
        ratios = f"{row['of_by_hand']:>12.2f}{row['of_pyro']:>9.2f}"
        print(f"{row['threads']:>7}  {row['name']:<24}{row['seconds']:>10.4f}{ratios}{row['elbo']:>9.2f}")


if __name__ == "__main__":
    main()
