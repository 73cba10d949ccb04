"""Four densities known up to a constant, fitted by a flow: the reverse KL through the same VariationalEM, and log Z.

    L = E_q[ -U(z) - log q(z) ] = log Z - KL(q || exp(-U) / Z)

The energies are those of Rezende and Mohamed ("Variational inference with normalizing flows", 2015). U2, U3 and U4
are the same all along z1, so their Z is finite only in a strip: the guide keeps to |z1| <= 4 by the flow's first layer.
Here log Z is known from quadrature; what importance sampling finds with the flow as proposal is held against it, and so
is the ELBO all the way: above log Z by more than 4.5 standard errors it would be no bound, and the script fails.

A reverse KL seeks modes: q is only judged where it draws, and a branch that it lost it does not miss. So the first half
of a fit is warm: a KL that weighs more than 1 is a temperature, for -U / beta is what it is then fitted to. (Without it
U4 loses a part of its branch, U1 a part of a crescent. Rates and temperatures were chosen by hand, with seed 0; another
--seed is a test of them.)

    python examples/reverse_kl_energies.py            (two minutes)
    python examples/reverse_kl_energies.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_vae import ELBO, Fit, ImportanceWeighted, Pair, VariationalEM
from ppl_vae.evidence import Evidence, error_in_words
from ppl_vae.flows import Bounded, Chain, Half, Layer, SplineCoupling
from ppl_vae.guides import FlowPosterior
from ppl_vae.models import Energy
from ppl_vae.objectives import LinearWarmup
from ppl_vae.plots.axes import ACCENT, SECOND, array, quiet
from ppl_vae.training import Callback


def normal(distance: Tensor, scale: float) -> Tensor:
    """The log of exp(-(distance / scale)^2 / 2)."""
    return -0.5 * (distance / scale).square()


def wave(z: Tensor) -> Tensor:
    """How far z2 is from the sine."""
    return z[..., 1] - (0.5 * math.pi * z[..., 0]).sin()


def minus_u1(z: Tensor) -> Tensor:
    """Two crescents of a ring."""
    sides = torch.logaddexp(normal(z[..., 0] - 2, 0.6), normal(z[..., 0] + 2, 0.6))
    return normal(z.norm(dim=-1) - 2, 0.4) + sides


def minus_u2(z: Tensor) -> Tensor:
    """A sine."""
    return normal(wave(z), 0.4)


def minus_u3(z: Tensor) -> Tensor:
    """A sine that parts and meets again."""
    bump = 3 * normal(z[..., 0] - 1, 0.6).exp()
    return torch.logaddexp(normal(wave(z), 0.35), normal(wave(z) + bump, 0.35))


def minus_u4(z: Tensor) -> Tensor:
    """A sine that parts for good."""
    step = 3 * ((z[..., 0] - 1) / 0.3).sigmoid()
    return torch.logaddexp(normal(wave(z), 0.4), normal(wave(z) + step, 0.35))


@dataclass(frozen=True)
class Target:
    """A log density, where it lives, how near to log Z its ELBO should come, and how its fit goes."""

    log_density: Callable[[Tensor], Tensor]
    asked: float = 0.10
    strip: bool = True  # |z1| <= 4, or the plane
    lr: float = 7e-3
    warmth: float = 5.0  # the temperature that a fit starts from

    @cached_property
    def log_z(self) -> float:
        """Log Z as a sum over the cells of a grid, 0.005 wide: right to more digits than are printed."""
        width = 4.0 if self.strip else 6.0
        z1, z2 = (torch.arange(0.0025 - half, half, 0.005, dtype=torch.float64) for half in (width, 8.0))
        total = self.log_density(torch.stack(torch.meshgrid(z1, z2, indexing="ij"), -1)).flatten().logsumexp(0)
        return float(total) + 2 * math.log(0.005)


TARGETS = {
    "U1": Target(minus_u1, asked=0.05, strip=False, lr=1.2e-2, warmth=6.0),
    "U2": Target(minus_u2),
    "U3": Target(minus_u3),
    "U4": Target(minus_u4),
}


def pair_of(target: Target) -> tuple[Energy, FlowPosterior]:
    """The model and the guide: six splines, each of one coordinate given the other."""
    if not target.strip:
        guide = FlowPosterior(Chain(splines(bins=16, bound=4.0)))
        return Energy(target.log_density, shape=2), guide
    # A strip's z1 is a logistic number pushed through the logistic function: from the start it is uniform, tails too.
    strip = Bounded([-4.0, -math.inf], [4.0, math.inf])
    base = dist.Logistic(torch.zeros(2), torch.tensor([1.0, 0.35])).to_event(1)
    guide = FlowPosterior(Chain([strip, *splines(bins=12, bound=6.0)]), base=base)
    return Energy(target.log_density, shape=2, support=strip.domain), guide


def splines(*, bins: int, bound: float) -> list[Layer]:
    """The last to be decoded moves z1 given z2, the one before z2 given z1, and so on."""
    return [SplineCoupling(2, bins=bins, bound=bound, mask=Half(swap=i % 2 == 0), hidden=(32, 32)) for i in range(6)]


def elbo(pair: Pair, *, num_samples: int, seed: int) -> tuple[float, float]:
    """The ELBO and its standard error, in nats."""
    log_weight = pair.draw(None, num_samples, seed=seed).log_weight
    return float(log_weight.mean()), float(log_weight.std()) / num_samples**0.5


class Watch(Callback):
    """Measures the ELBO on the way (a model without data has one step an epoch), and fails where it is no bound."""

    def __init__(self, pair: Pair, target: Target, every: int) -> None:
        self.pair, self.target, self.every = pair, target, every
        self.seen: list[tuple[int, float]] = []

    def on_epoch(self, run, row) -> None:
        """Called by the run after every step."""
        if (row["epoch"] + 1) % self.every == 0:
            self.look(row["epoch"] + 1)

    def look(self, step: int) -> None:
        """Measure once."""
        value, error = elbo(self.pair, num_samples=2000, seed=step)
        self.seen.append((step, value))
        if value > self.target.log_z + 4.5 * error:
            raise AssertionError(f"step {step}: the ELBO {value:.4f} ± {error:.4f} is above log Z: it is no bound")


def fit(target: Target, *, steps: int, seed: int) -> tuple[Fit, Watch]:
    """Fit the flow by the reverse KL, warm in the first half of the steps."""
    torch.manual_seed(seed)
    model, guide = pair_of(target)
    em = VariationalEM(
        model,
        guide,
        objective=ELBO(num_particles=256, beta=LinearWarmup(max(1, steps // 2), start=target.warmth)),
        lr=target.lr,
        lr_scheduler=partial(CosineAnnealingLR, T_max=steps),
        clip_norm=10.0,
    )
    watch = Watch(em.pair, target, max(1, steps // 50))
    return em.fit(None, steps=steps, callbacks=[watch], seed=seed, progress=False), watch


def report(name: str, target: Target, fit: Fit, evidence: Evidence, *, num_samples: int) -> None:
    """One row of the table."""
    value, error = elbo(fit, num_samples=num_samples, seed=1)
    gap, khat = target.log_z - value, float(evidence.khat)
    bar = float(evidence.standard_error)
    off = "unknown" if math.isnan(bar) else f"{(float(evidence.value) - target.log_z) / bar:+.1f} SE"
    met = gap <= target.asked and khat <= 0.7 and value <= target.log_z + 4.5 * error
    print(
        f"{name:<4}{target.log_z:9.5f}{value:10.4f} ± {error:.4f}{gap:9.4f} (<= {target.asked:.2f})"
        f"{float(evidence.value):10.4f} ± {error_in_words(bar, '.4f')} ({off}){khat:8.2f}"
        f"   {'met' if met else 'NOT met':<8}{fit.seconds:7.0f}",
        flush=True,
    )


def density(ax, log_density: Callable[[Tensor], Tensor], points: int = 160) -> None:
    """A density on the square |z| <= 4, seen from above; z2 from -6 where a branch goes down there."""
    side = (torch.arange(points) + 0.5) / points
    z1, z2 = torch.meshgrid(8 * side - 4, 9 * side - 5.5, indexing="xy")
    with torch.no_grad():
        values = log_density(torch.stack([z1, z2], -1)).exp()
    ax.imshow(array(values), origin="lower", extent=(-4, 4, -5.5, 3.5), cmap="Blues", aspect="auto")
    ax.set_xticks([-4, 0, 4])


def draw(fits: dict[str, tuple[Fit, Watch]], path: Path) -> None:
    """Above the target, in the middle the flow's density and its draws, below the ELBO on its way to log Z."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=150, layout="constrained")
    axes = figure.subplots(3, len(fits), squeeze=False)
    for (above, middle, below), (name, (fit, watch)) in zip(axes.T, fits.items(), strict=True):
        target = TARGETS[name]
        density(above, target.log_density)
        above.set_title(f"exp(-{name})", fontsize=10)
        density(middle, fit.guide.distribution().log_prob)
        z = array(fit.draw(None, 400).values["z"])
        middle.plot(z[:, 0], z[:, 1], ".", ms=1.5, color=SECOND)
        middle.set(xlim=(-4, 4), ylim=(-5.5, 3.5))
        middle.set_title("the flow, and 400 draws", fontsize=10)
        steps, values = zip(*watch.seen, strict=True)
        below.plot(steps, values, color=ACCENT, lw=1.4)
        below.axhline(target.log_z, color=SECOND, lw=1, ls="--")
        below.set_ylim(target.log_z - 2.0, target.log_z + 0.2)
        below.set_title("ELBO, and log Z (dashed)", fontsize=10)
        quiet(below, xlabel="step")
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the start and of the noise")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    steps, num_samples = (20, 500) if options.smoke else (2500, 20_000)
    fits: dict[str, tuple[Fit, Watch]] = {}
    print(f"{steps} steps of 256 draws, seed {options.seed}; ELBO and log Z from {num_samples} draws each, nats")
    print("      log Z   ELBO             log Z - ELBO       importance sampling           k-hat   asked   seconds")
    for name, target in TARGETS.items():
        fits[name] = found, _ = fit(target, steps=steps, seed=options.seed)
        evidence = found.log_evidence(None, ImportanceWeighted(num_samples), seed=options.seed)
        report(name, target, found, evidence, num_samples=num_samples)
    print("no ELBO seen on the way is above log Z by more than 4.5 standard errors")
    draw(fits, options.out / "reverse_kl_energies.png")


if __name__ == "__main__":
    main()
