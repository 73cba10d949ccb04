"""A flow is a VAE: with a deterministic encoder and decoder the ELBO is the log-likelihood, to the float.

    p(x | z) = δ(x - g(z)),   q(z | x) = δ(z - f(x)),   f = g^-1:     L(x) = log p(f(x)) + log|det J_f(x)| = log p(x)

Six flows of different kinds on the iris flowers, trained by VariationalEM and, from the same start, by hand: Adam on
the mean of log p. What the pair says is then held against a log-likelihood that knows nothing of it: the Jacobian by
automatic differentiation, one row at a time. Beside it stands the naive pair of two point masses of Pyro, which loses
the log-determinant without a word. (That is its lucky case: a point mass is compared to the bit, so where g(f(x))
rounds to a neighbour of x, its ELBO is -inf; the table counts these rows.)

Both trainings go the same way as long as rounding lets them: how far it alone takes two of them apart is seen from two
trainings by hand, one with the rows in reverse order.

Source: Nielsen, Jaini, Hoogeboom, Winther, Welling, "SurVAE Flows", 2020.

    python examples/flow_is_a_vae.py            (a minute)
    python examples/flow_is_a_vae.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from ppl_vae import Fit, VariationalEM
from ppl_vae.data import load_iris
from ppl_vae.flows import (
    AffineCoupling,
    Chain,
    Layer,
    LULinear,
    MaskedAutoregressive,
    Planar,
    Reverse,
    SplineCoupling,
    from_zuko,
)
from ppl_vae.guides import FlowGuide
from ppl_vae.models import FlowModel
from ppl_vae.plots.axes import ACCENT, CLASSES, SECOND, array, quiet

D = 4
SMALL = (16, 16)

FLOWS: dict[str, Callable[[], Layer]] = {
    "affine coupling": lambda: Chain([AffineCoupling(D, hidden=SMALL), Reverse(D), AffineCoupling(D, hidden=SMALL)]),
    "spline coupling": lambda: Chain([SplineCoupling(D, hidden=SMALL), Reverse(D), SplineCoupling(D, hidden=SMALL)]),
    "autoregressive": lambda: Chain([MaskedAutoregressive(D, hidden=SMALL), Reverse(D), MaskedAutoregressive(D)]),
    "planar": lambda: Chain([Planar(D) for _ in range(4)]),
    "LU linear": lambda: LULinear(D),
    "zuko's NSF": lambda: from_zuko(lambda zuko: zuko.flows.NSF(D, transforms=1, bins=4, hidden_features=SMALL)),
}
RATES = {"LU linear": 3e-2}  # of learning, 3e-3 for the others; this one has an optimum to go to, known in closed form


def log_density(flow: Layer, x: Tensor) -> Tensor:
    """Log N(f(x); 0, I) + contribution: what one maximizes by hand, (N,) nats."""
    z, contribution = flow.encode(x)
    return dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + contribution


def log_det(flow: Layer, x: Tensor) -> Tensor:
    """log|det J_f| of every row, (N,) nats, by automatic differentiation, not by what the flow says."""

    def one(row: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v[None])[0][0], row)
        return torch.linalg.slogdet(jacobian).logabsdet

    return torch.stack([one(row) for row in x])


def fit_by_hand(flow: Layer, x: Tensor, *, steps: int, lr: float) -> Layer:
    """Maximum likelihood as one writes it without a framework."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (-log_density(flow, x).mean()).backward()
        optimizer.step()
    return flow


class Naive:
    """The pair of two point masses as one would first write it in Pyro."""

    def __init__(self, flow: Layer) -> None:
        self.flow = flow

    def model(self, x: Tensor) -> None:
        """A normal z, and x a point at g(f(x)), which is x but for rounding."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Delta(x, event_dim=1), obs=x)

    def guide(self, x: Tensor) -> None:
        """A point z at f(x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.flow.encode(x)[0], event_dim=1))


@torch.no_grad()
def pyro_elbo(model: Callable[..., object], guide: Callable[..., object], x: Tensor) -> Tensor:
    """Pyro's Trace_ELBO of every row by itself, (N,) nats."""
    with pyro.get_param_store().scope():
        return x.new_tensor([-Trace_ELBO().loss(model, guide, row[None]) for row in x])


@dataclass(frozen=True)
class Found:
    """Of one flow: ELBOs and log-likelihood of every row, and how far the two ways of training have come apart."""

    fit: Fit
    elbo: Tensor  # of the pair, by ppl_vae
    pyro_elbo: Tensor  # of the pair, by Pyro
    naive: Tensor  # of the naive pair, by Pyro
    log_likelihood: Tensor
    log_det: Tensor
    by_hand: float  # the mean log-likelihood at the end of the training by hand
    apart: float  # the largest difference between the parameters of the two
    by_order: float  # the same between two trainings by hand, one with the rows reversed: what rounding alone does
    rounded: int  # rows where g(f(x)) is not x to the bit


def distance(one: Layer, two: Layer) -> float:
    """The largest difference between the parameters of two flows."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def compare(make: Callable[[], Layer], x: Tensor, *, steps: int, lr: float) -> Found:
    """Train a flow both ways from one start, and measure."""
    torch.manual_seed(0)
    flow = make().to(x.dtype)
    other, reversed_rows = (fit_by_hand(copy.deepcopy(flow), rows, steps=steps, lr=lr) for rows in (x, x.flip(0)))
    fit = VariationalEM(FlowModel(flow), FlowGuide(flow), lr=lr, compile=False).fit(
        x, steps=steps, seed=0, progress=False
    )
    volume, naive = log_det(flow, x), Naive(flow)
    with torch.no_grad():
        z = flow.encode(x)[0]
        log_likelihood = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + volume
        by_hand = float(log_density(other, x).mean())
        rounded = int((flow.decode(z)[0] != x).any(-1).sum())
    differences = distance(flow, other), distance(other, reversed_rows)
    elbos = fit.elbo(x, num_samples=1), pyro_elbo(fit.model, fit.guide, x), pyro_elbo(naive.model, naive.guide, x)
    return Found(fit, *elbos, log_likelihood, volume, by_hand, *differences, rounded)


def line(name: str, found: Found) -> str:
    """One row of the table; differences are the largest over rows."""
    exact = found.log_likelihood
    off = [float((values - exact).abs().max()) for values in (found.elbo, found.pyro_elbo)]
    lost = float((found.naive + found.log_det - exact).abs().max())
    return (
        f"{name:<16}{float(exact.mean()):9.4f}{off[0]:10.1e}{off[1]:9.1e}"
        f"{float((found.naive - exact).mean()):11.4f}{-float(found.log_det.mean()):11.4f}{lost:9.1e}"
        f"{found.rounded:6d}{found.by_hand:11.4f}{found.apart:11.1e}{found.by_order:10.1e}"
    )


def normal_log_likelihood(x: Tensor) -> float:
    """The mean log-likelihood of a row under the best multivariate normal: what a linear flow can reach."""
    return float(-0.5 * (D * (1 + math.log(2 * math.pi)) + torch.logdet(torch.cov(x.T, correction=0))))


def draw(results: dict[str, Found], path: Path) -> None:
    """Row by row the two ELBOs over the log-likelihood; and the way of each fit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    rows, fits = figure.subplots(1, 2)
    for colour, (name, found) in zip(CLASSES, results.items(), strict=False):
        exact = array(found.log_likelihood)
        rows.plot(exact, array(found.naive), "x", ms=3, color=SECOND, alpha=0.5)
        rows.plot(exact, array(found.elbo), ".", ms=3, color=ACCENT)
        fits.plot(found.fit.history["elbo"], color=colour, lw=1.4, label=name)
        fits.plot(len(found.fit.history) - 1, found.by_hand, "o", ms=5, mfc="none", color=colour)
    rows.plot([], [], ".", color=ACCENT, label="FlowModel with FlowGuide")
    rows.plot([], [], "x", color=SECOND, label="Delta with Delta")
    rows.legend(frameon=False, fontsize=9)
    fits.legend(frameon=False, fontsize=9)
    quiet(rows, xlabel="log p(x) by the Jacobian, nats, a point a flower", ylabel="ELBO, nats")
    quiet(fits, xlabel="step; circles: maximum likelihood by hand", ylabel="mean ELBO, nats")
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    steps, num_rows = (3, 20) if options.smoke else (200, 150)
    x = load_iris().train.double()
    x = ((x - x.mean(0)) / x.std(0))[:num_rows]
    results: dict[str, Found] = {}
    print(f"{num_rows} rows of iris, standardized, float64; {steps} steps, seed 0; nats; 1e-15: the largest over rows")
    print(
        "                         |ELBO - log p(x)| naive ELBO what it lost  the  g(f(x))  by hand  parameters rounding"
    )
    print("                log p(x)   ppl_vae     Pyro  - log p(x) -log|det|   rest   != x  log p(x)  apart by   alone")
    for name, make in FLOWS.items():
        results[name] = compare(make, x, steps=steps, lr=RATES.get(name, 3e-3))
        print(line(name, results[name]), flush=True)
    print(f"the best multivariate normal, in closed form: {normal_log_likelihood(x):.4f} nats (LU linear goes there)")
    worst = max(float((found.elbo - found.log_likelihood).abs().max()) for found in results.values())
    if worst > 1e-9:
        raise AssertionError(f"an ELBO is off its log-likelihood by {worst:.1e} nats")
    draw(results, options.out / "flow_is_a_vae.png")


if __name__ == "__main__":
    main()
