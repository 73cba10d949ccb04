"""Variational EM step by step: where the ELBO goes in each half-step, beside moving both sides at once.

    log p_theta(x) = ELBO(phi, theta) + KL(q_phi(z | x) || p_theta(z | x))

An E-step moves phi: log p(x) stands still, to the bit, and the ELBO climbs towards it. An M-step moves theta: both
climb, and the gap may open again. The model is linear and Gaussian, so log p(x) is exact, and the picture is the
lecture's.

    python examples/e_and_m_steps.py            (ten seconds)
    python examples/e_and_m_steps.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_vae import ELBO, Joint, VariationalEM
from ppl_vae.data import load_wine
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots.axes import ACCENT, INK, MUTED, SECOND, quiet

LATENT = 2


def make(x: Tensor) -> tuple[VAE, VariationalEM]:
    """The same pair at the same start, each time: PPCA as a VAE, with a linear encoder."""
    torch.manual_seed(0)
    d = x.shape[1]
    model = VAE(MLP(LATENT, d, hidden=()), latent_dim=LATENT, likelihood="normal")
    guide = AmortizedNormal(MLP(d, 2 * LATENT, hidden=()), latent_dim=LATENT)
    objective = ELBO(num_particles=16)  # the mean of 16 draws a row: little noise in steps and measurements
    return model, VariationalEM(model, guide, objective=objective, lr=0.03, schedule=Joint(), dtype=torch.float64)


@torch.no_grad()
def log_likelihood(model: VAE, x: Tensor) -> float:
    """Log N(x; b, W W' + sigma^2 I), the mean over rows, exactly; nats."""
    layer = model.decoder.layers[0]
    noise = model.likelihood.scale**2 * torch.eye(x.shape[1], dtype=x.dtype)
    marginal = MultivariateNormal(layer.bias, layer.weight @ layer.weight.T + noise)
    return float(marginal.log_prob(x).mean())


@dataclass
class Track:
    """What was measured after each gradient step."""

    side: list[str] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)

    def note(self, side: str, model: VAE, em: VariationalEM, x: Tensor) -> None:
        """Measure the pair as it stands."""
        self.side.append(side)
        self.elbo.append(em.evaluate(x, seed=1)["elbo"])  # the same noise each time: differences are clean
        self.log_p.append(log_likelihood(model, x))


def alternate(x: Tensor, *, rounds: int, length: int) -> Track:
    """Rounds of ``length`` E-steps, then ``length`` M-steps, measured after each."""
    model, em = make(x)
    path = Track()
    path.note("start", model, em, x)
    for _ in range(rounds):
        for side, step in (("E", em.e_step), ("M", em.m_step)):
            for _ in range(length):
                step(x)
                path.note(side, model, em, x)
    return path


def together(x: Tensor, *, steps: int) -> Track:
    """As many steps of both sides at once: stochastic variational inference."""
    model, em = make(x)
    path = Track()
    path.note("start", model, em, x)
    for _ in range(steps):
        em.step(x)
        path.note("joint", model, em, x)
    return path


def report(path: Track, length: int) -> None:
    """One line a half-step: what it did to the ELBO, to log p(x), and to the gap between the two."""
    print("half-step     ELBO    log p(x)     gap    ELBO rose by   log p(x) rose by")
    for end in range(length, len(path.elbo), length):
        start = end - length
        rise, rise_p = path.elbo[end] - path.elbo[start], path.log_p[end] - path.log_p[start]
        gap = path.log_p[end] - path.elbo[end]
        numbers = f"{path.elbo[end]:9.4f} {path.log_p[end]:10.4f} {gap:8.4f} {rise:12.4f} {rise_p:17.4f}"
        print(f"    {path.side[end]}     {numbers}")
        if path.side[end] == "E" and rise_p != 0:
            raise AssertionError("an E-step has moved log p(x): theta was not frozen")


def draw(alternating: Track, joint: Track, length: int, file: Path) -> None:
    from matplotlib.figure import Figure

    ax = Figure(figsize=(9, 4.6), dpi=150, layout="constrained").add_subplot()
    ax.plot(joint.elbo, color=MUTED, lw=2, label="ELBO, both sides at once")
    ax.plot(alternating.log_p, color=INK, lw=1, ls="--", label="log p(x), alternating")
    for start in range(0, len(alternating.elbo) - 1, length):
        span = range(start, start + length + 1)
        side = alternating.side[start + 1]
        label = f"ELBO, {side}-steps" if start < 2 * length else None
        ax.plot(span, [alternating.elbo[i] for i in span], color=ACCENT if side == "E" else SECOND, lw=2, label=label)
    ax.legend(frameon=False, loc="lower right", fontsize=9)
    quiet(ax, xlabel="gradient steps", ylabel="nats a row").figure.savefig(file)
    print(f"drawn: {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    rounds, length = (2, 4) if options.smoke else (5, 30)
    x = load_wine().train.double()
    alternating = alternate(x, rounds=rounds, length=length)
    joint = together(x, steps=2 * rounds * length)
    report(alternating, length)
    print(f"after {2 * rounds * length} gradient steps, nats a row:")
    print(f"    alternating {alternating.elbo[-1]:.4f}, both at once {joint.elbo[-1]:.4f}")
    draw(alternating, joint, length, options.out / "e_and_m_steps.png")


if __name__ == "__main__":
    main()
