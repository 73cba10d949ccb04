"""A linear VAE is probabilistic PCA: its ELBO climbs to the exact maximum likelihood, and never above it.

    z ~ N(0, I_q),  x | z ~ N(W z + b, sigma^2 I),      q(z | x) = N(A x + a, diag(s(x)^2)) or with a full covariance

Under this model p(z | x) is normal, with the same covariance for all x, and W may be turned so that it is diagonal: the
guide can be exact, and then the ELBO's maximum over both sides is that of log p(x), which Tipping and Bishop
("Probabilistic principal component analysis", 1999) give in closed form. The ELBO is a closed form here as well, so
"never above" is checked without Monte Carlo, along the whole fit.

    python examples/linear_vae_is_ppca.py            (a minute; --full for the full covariance)
    python examples/linear_vae_is_ppca.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_vae import ELBO, Callback, VariationalEM
from ppl_vae.data import load_iris, load_wine
from ppl_vae.guides import AmortizedNormal, Diagonal, FullCovariance
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots.axes import ACCENT, SECOND, quiet

LATENT = 2


def maximum_likelihood(x: Tensor, q: int) -> float:
    """The mean log-likelihood of a row at the maximum of PPCA, from the eigenvalues of the (1/n) covariance; nats."""
    d = x.shape[1]
    spectrum = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = spectrum[q:].mean()
    log_det = spectrum[:q].log().sum() + (d - q) * noise.log()
    return float(-0.5 * (d * math.log(2 * math.pi) + log_det + d))


@torch.no_grad()
def exact_elbo(model: VAE, guide: AmortizedNormal, x: Tensor) -> float:
    """E_q[log p(x | z)] - KL(q(z | x) || p(z)) in closed form, the mean over rows; nats."""
    q = guide.encode(x)
    cov = q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.variance)
    weight, variance = model.decoder.layers[0].weight, model.likelihood.scale**2
    error = (x - model.decoder(q.mean)).square().sum(1) + torch.einsum("di,nij,dj->n", weight, cov, weight)
    reconstruction = -0.5 * (x.shape[1] * (2 * math.pi * variance).log() + error / variance)
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)
    kl = 0.5 * (trace + q.mean.square().sum(1) - LATENT - torch.logdet(cov))
    return float((reconstruction - kl).mean())


class Watch(Callback):
    """Notes the exact ELBO every few steps (all rows are one batch, so an epoch is a step)."""

    def __init__(self, every: int, measure: partial[float]) -> None:
        self.every, self.measure = every, measure
        self.steps: list[int] = []
        self.values: list[float] = []

    def on_epoch(self, run, row) -> None:
        """Called by the run after every epoch."""
        if row["epoch"] % self.every == 0:
            self.steps.append(row["epoch"] + 1)
            self.values.append(self.measure())


def fit(x: Tensor, covariance: Diagonal | FullCovariance, *, steps: int) -> Watch:
    """Fit the linear VAE by variational EM, and return what was seen on the way."""
    torch.manual_seed(0)
    d = x.shape[1]
    model = VAE(MLP(LATENT, d, hidden=()), latent_dim=LATENT, likelihood="normal")
    encoder = MLP(d, covariance.num_outputs(LATENT), hidden=())
    guide = AmortizedNormal(encoder, latent_dim=LATENT, covariance=covariance)
    watch = Watch(max(1, steps // 200), partial(exact_elbo, model, guide, x))
    em = VariationalEM(
        model,
        guide,
        objective=ELBO(num_particles=8),
        lr=0.02,
        lr_scheduler=partial(CosineAnnealingLR, T_max=steps),
        dtype=torch.float64,
    )
    em.fit(x, steps=steps, callbacks=[watch], seed=0)
    watch.steps.append(steps)
    watch.values.append(watch.measure())
    return watch


def run(path: Path, covariance: Diagonal | FullCovariance, *, steps: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    for data, ax in zip((load_iris(), load_wine()), figure.subplots(1, 2), strict=True):
        x = data.train.double()
        x = x - x.mean(0)  # a shift: the density is the same, and the descent is far better conditioned
        best, watch = maximum_likelihood(x, LATENT), fit(x, covariance, steps=steps)
        print(f"{data.name}, q = {LATENT}, {type(covariance).__name__} guide, {steps} steps")
        print(f"  PPCA maximum likelihood     {best:.6f} nats a row")
        print(f"  exact ELBO of the VAE       {watch.values[-1]:.6f}")
        print(f"  gap                         {best - watch.values[-1]:.6f}")
        print(f"  highest ELBO seen on the way is below the line by {best - max(watch.values):.2e}")
        if max(watch.values) > best + 1e-9:
            raise AssertionError("an ELBO above the maximum likelihood: the bound is broken")
        ax.plot(watch.steps, watch.values, color=ACCENT, lw=1.6, label="exact ELBO of the linear VAE")
        ax.axhline(best, color=SECOND, lw=1, ls="--", label="PPCA maximum likelihood")
        ax.set_ylim(best - 1.0, best + 0.1)
        ax.set_title(data.name, fontsize=10)
        ax.legend(frameon=False, loc="lower right", fontsize=9)
        quiet(ax, xlabel="step", ylabel="nats a row")
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--full", action="store_true", help="a guide with a full covariance")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    covariance = FullCovariance() if options.full else Diagonal()
    run(options.out / "linear_vae_is_ppca.png", covariance, steps=60 if options.smoke else 1500)


if __name__ == "__main__":
    main()
