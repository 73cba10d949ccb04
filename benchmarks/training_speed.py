"""Seconds per epoch of a VAE on binary digits: ours, a hand-written PyTorch loop, Pyro's SVI, in one process.

The same networks (64-128-128-8 and back), batches of 100, Adam. Rounds are interleaved; the figure is the median round,
and what counts are the ratios, for absolute times depend on the machine.

    python benchmarks/training_speed.py [--rounds 9] [--threads 1 2] [--smoke]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from ppl_vae import VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP

BATCH, LATENT, HIDDEN = 100, 8, (128, 128)
Epochs = Callable[[int], object]


def networks() -> tuple[nn.Module, nn.Module]:
    return MLP(LATENT, 64, hidden=HIDDEN), MLP(64, 2 * LATENT, hidden=HIDDEN)


def pair() -> tuple[VAE, AmortizedNormal]:
    decoder, encoder = networks()
    return VAE(decoder, latent_dim=LATENT, likelihood="bernoulli"), AmortizedNormal(encoder, latent_dim=LATENT)


def by_hand(x: torch.Tensor) -> Epochs:
    """The loop that a person writes: closed-form KL, one Adam over both networks."""
    decoder, encoder = networks()
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], lr=1e-3)

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(BATCH):
                rows = x[index]
                loc, raw = encoder(rows).chunk(2, -1)
                scale = nn.functional.softplus(raw) + 1e-6
                z = loc + scale * torch.randn_like(scale)
                nll = nn.functional.binary_cross_entropy_with_logits(decoder(z), rows, reduction="none").sum(-1)
                kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
                optimizer.zero_grad()
                (nll + kl).mean().backward()
                optimizer.step()

    return run


def by_pyro(x: torch.Tensor) -> Epochs:
    """Pyro's own SVI on the very same model and guide."""
    model, guide = pair()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(BATCH):
                svi.step(x[index])

    return run


def by_us(x: torch.Tensor) -> Epochs:
    """VariationalEM with its defaults."""
    fit = VariationalEM(*pair(), device="cpu").fit(x, epochs=1, batch_size=BATCH, progress=False)
    return lambda epochs: fit.resume(epochs=epochs, progress=False)


def measure(rounds: int, epochs: int) -> dict[str, float]:
    """Median seconds per epoch of each, rounds interleaved."""
    x = load_digits(binary=True).train
    runs = {"PyTorch by hand": by_hand(x), "Pyro SVI": by_pyro(x), "ppl_vae": by_us(x)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(1)  # warm-up
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(epochs)
            seconds[name].append((time.perf_counter() - start) / epochs)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5, help="epochs a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--smoke", action="store_true", help="one short round")
    args = parser.parse_args()
    rounds, epochs = (1, 1) if args.smoke else (args.rounds, args.epochs)
    torch.manual_seed(0)
    print(f"{'threads':>7}  {'':<16}{'s / epoch':>10}{'of Pyro':>9}{'of by hand':>11}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        found = measure(rounds, epochs)
        for name, seconds in found.items():
            ratios = f"{seconds / found['Pyro SVI']:>9.2f}{seconds / found['PyTorch by hand']:>11.2f}"
            print(f"{threads:>7}  {name:<16}{seconds:>10.4f}{ratios}")


if __name__ == "__main__":
    main()
