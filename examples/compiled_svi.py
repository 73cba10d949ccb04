"""A model of Pyro's tutorials, trained several times faster by changing one line.

The model and the guide are those of Pyro's tutorial on the variational autoencoder
(https://pyro.ai/examples/vae.html): a decoder and an encoder with one hidden layer, registered with `pyro.module`,
trained by `SVI` with `Trace_ELBO`. Here they see the real 8x8 digits of scikit-learn. The line that changes:

    svi = SVI(model, guide, optim, loss=Trace_ELBO())
    svi = CompiledSVI(model, guide, optim, loss=Trace_ELBO())

Both start from the same weights and see the same batches and the same noise, so their losses agree up to rounding; the
plot shows them on top of each other, over steps and over seconds. The first use on a machine waits for the C++ compiler
once; later runs find the library again.

    python examples/compiled_svi.py            (half a minute)
    python examples/compiled_svi.py --smoke    (seconds, after the first use)
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from ppl_vae import CompiledSVI
from ppl_vae.data import load_digits
from ppl_vae.plots.axes import ACCENT, SECOND, quiet

BATCH, HIDDEN, LATENT = 64, 64, 8


class Decoder(nn.Module):
    """A code to the probabilities of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.softplus = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, 64), nn.Softplus()

    def forward(self, z: Tensor) -> Tensor:
        """(B, LATENT) to (B, 64)."""
        return torch.sigmoid(self.fc21(self.softplus(self.fc1(z))))


class Encoder(nn.Module):
    """Pixels to the location and scale of a code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.softplus = nn.Linear(64, HIDDEN), nn.Softplus()
        self.fc21, self.fc22 = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 64) to twice (B, LATENT)."""
        hidden = self.softplus(self.fc1(x))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class VAE(nn.Module):
    """The pair, as two methods of one module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def model(self, x: Tensor) -> None:
        """p(x, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = x.new_zeros(x.shape[0], LATENT), x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


@dataclass
class Run:
    """What one training run was like."""

    name: str
    losses: list[float]
    seconds: list[float]  # since the start, after each step

    def step_seconds(self, last: int) -> float:
        """Seconds a step, over the last steps: without the compiler."""
        return (self.seconds[-1] - self.seconds[-1 - last]) / last


def train(kind: type[SVI], x: Tensor, num_steps: int) -> tuple[Run, SVI]:
    """The loop of the tutorial."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae = VAE()
    svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    losses, seconds, start = [], [], time.perf_counter()
    while len(losses) < num_steps:
        for index in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            losses.append(svi.step(x[index]) / BATCH)
            seconds.append(time.perf_counter() - start)
    return Run(kind.__name__, losses[:num_steps], seconds[:num_steps]), svi


def draw(runs: list[Run], path: Path) -> None:
    """The loss over steps, where the two lie on each other, and over seconds, where they do not."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, constrained_layout=True)
    for run, color, width in zip(runs, (SECOND, ACCENT), (3.0, 1.2), strict=True):
        smooth = torch.tensor(run.losses).unfold(0, min(50, len(run.losses)), 1).mean(1)
        skipped = len(run.losses) - len(smooth)
        axes[0].plot(range(skipped, len(run.losses)), smooth, color=color, lw=width, label=run.name)
        axes[1].plot(run.seconds[skipped:], smooth, color=color, lw=width, label=run.name)
    for ax in axes:
        quiet(ax)
        ax.legend(frameon=False)
    axes[0].set(xlabel="step", ylabel="loss, nats a digit (mean of 50 steps)")
    axes[1].set(xlabel="seconds, with the compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder of the plot")
    parser.add_argument("--smoke", action="store_true", help="a short run")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    num_steps = 300 if options.smoke else options.steps
    torch.set_num_threads(1)  # networks of this size only wait for a second one

    x = load_digits(binary=True).train
    eager, _ = train(SVI, x, num_steps)
    compiled, svi = train(CompiledSVI, x, num_steps)

    last = num_steps // 2
    worst = max(abs(a - b) / abs(a) for a, b in zip(eager.losses, compiled.losses, strict=True))
    ratio = eager.step_seconds(last) / compiled.step_seconds(last)
    for run in (eager, compiled):
        print(f"{run.name:<12} {1e3 * run.step_seconds(last):7.3f} ms a step, {run.seconds[-1]:6.1f} s in all")
    print(f"a step is {ratio:.1f} times faster; the losses differ by at most {worst:.1e} of themselves\n")
    print(svi.explain())  # type: ignore[attr-defined]
    path = options.out / "compiled_svi.png"
    draw([eager, compiled], path)
    print(f"\nthe plot is in {path}")


if __name__ == "__main__":
    main()
