"""Both KL divergences of a flow, each measured where x lives and where z lives; and what each of the two wants.

    KL(π(x) || p(x|θ)) = KL(p(z|θ) || p(z)),        KL(p(x|θ) || π(x)) = KL(p(z) || p(z|θ))

p(z|θ) is the law of z = f(x), x ~ π: maximum likelihood of a flow is to make the data, encoded, look like the base.
kl_report scores the same draws by encode in x-space and by decode in z-space, so its two sides agree draw by draw, to
rounding. So that this is more than one number printed twice, the forward KL is computed twice more by sums over grids:
one in the plane of x, of π and p(x|θ), and one in the plane of z, of p(z|θ) and p(z).

And the choice between the two directions, with one Gaussian against two modes. Maximum likelihood covers both modes and
the void between them; the reverse KL takes the mode it starts near, gives up log 1/weight nats, and does not feel the
other. Both are fitted by VariationalEM: FlowModel with FlowGuide on draws of π, Energy with FlowPosterior on its
density. A flow that can bend could have both modes; told of them by draws it takes them, and by the reverse KL from a
cold start it loses one all the same (reverse_kl_energies.py starts warm).

Source: Papamakarios et al., "Normalizing flows for probabilistic modeling and inference", 2021.

    python examples/kl_duality.py            (a minute)
    python examples/kl_duality.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_vae import ELBO, VariationalEM
from ppl_vae.flows import (
    Chain,
    Divergence,
    FlowDistribution,
    Half,
    KLReport,
    Layer,
    LULinear,
    SplineCoupling,
    kl_report,
)
from ppl_vae.guides import FlowGuide, FlowPosterior
from ppl_vae.models import Energy, FlowModel
from ppl_vae.plots.axes import ACCENT, SECOND, array, quiet
from ppl_vae.training import EachStep

DOUBLE = torch.float64
WEIGHTS, CENTRES = torch.tensor([0.4, 0.6], dtype=DOUBLE), torch.tensor([[-2.2, -1.1], [2.2, 1.1]], dtype=DOUBLE)
TARGET = dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(CENTRES, 0.5).to_event(1))
BASE = dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1)


def gaussian(start: tuple[float, float] = (0.0, 0.0)) -> Layer:
    """One Gaussian of any covariance: z = L U x + b, with its mean at the start."""
    flow = LULinear(2)
    with torch.no_grad():
        flow.bias.copy_(-torch.tensor(start))
    return flow.double()


def bending() -> Layer:
    """Splines of one coordinate given the other, and matrices between them."""
    moves = [SplineCoupling(2, mask=Half(swap=i % 2 == 0), hidden=(32, 32)) for i in range(4)]
    return Chain([layer for move in moves for layer in (LULinear(2), move)]).double()


def fit_forward(flow: Layer, *, steps: int, lr: float) -> None:
    """Maximum likelihood of draws of π: E_π[log p(x|θ)] = -KL(π || p) - H(π)."""
    torch.manual_seed(1)
    em = VariationalEM(FlowModel(flow), FlowGuide(flow), **options(steps, lr))
    em.fit(TARGET.sample((4000,)), steps=steps, batch_size=min(1000, 50 * steps), seed=0, progress=False)


def fit_reverse(flow: Layer, *, steps: int, lr: float) -> None:
    """A guide for the density π: E_p[log π(x) - log p(x|θ)] = -KL(p || π)."""
    model, guide = Energy(TARGET.log_prob, shape=2), FlowPosterior(flow)
    em = VariationalEM(model, guide, objective=ELBO(num_particles=256), **options(steps, lr))
    em.fit(None, steps=steps, seed=0, progress=False)


def options(steps: int, lr: float) -> dict[str, object]:
    """What both ways of fitting have in common."""
    return {"lr": lr, "lr_scheduler": EachStep(partial(CosineAnnealingLR, T_max=steps)), "compile": False}


FITS: dict[str, tuple[Callable[[], Layer], Callable[..., None]]] = {
    "Gaussian, forward": (gaussian, fit_forward),
    "Gaussian, reverse, from the left": (lambda: gaussian((-1.5, 0.0)), fit_reverse),
    "Gaussian, reverse, from the right": (lambda: gaussian((1.5, 0.0)), fit_reverse),
    "splines, forward": (bending, fit_forward),
    "splines, reverse": (bending, fit_reverse),
}


@dataclass(frozen=True)
class Found:
    """A fitted flow, its report, and the forward KL by sums over grids of x and of z."""

    flow: Layer
    report: KLReport
    by_x: float
    by_z: float


def grid(reach: float, points: int) -> tuple[Tensor, float]:
    """The centres of the cells of a square, (points^2, 2), and the area of a cell."""
    side = (torch.arange(points, dtype=DOUBLE) + 0.5) / points * 2 * reach - reach
    return torch.cartesian_prod(side, side), (2 * reach / points) ** 2


def summed(log_p: Tensor, log_q: Tensor, area: float) -> float:
    """KL(p || q) as a sum over cells, nats."""
    return float((log_p.exp() * (log_p - log_q)).sum() * area)


@torch.no_grad()
def measure(flow: Layer, *, num_samples: int, points: int) -> Found:
    """The report, and two sums that share no draw with it, and no pass of the flow with each other."""
    x, area_x = grid(7.0, points)
    by_x = summed(TARGET.log_prob(x), FlowDistribution(BASE, flow).log_prob(x), area_x)
    reach = 1.6 * float(flow.encode(TARGET.sample((1000,)))[0].abs().max())
    z, area_z = grid(reach, 2 * points)
    decoded, contribution = flow.decode(z)
    by_z = summed(TARGET.log_prob(decoded) - contribution, BASE.log_prob(z), area_z)
    return Found(flow, kl_report(flow, TARGET, base=BASE, num_samples=num_samples, seed=2), by_x, by_z)


def table(name: str, found: Found) -> str:
    """What was found of one flow."""
    report = found.report
    assert report.forward_x is not None and report.forward_z is not None
    off = abs(report.forward_x.value - found.by_x) / report.forward_x.standard_error
    return "\n".join(
        [
            name,
            f"  KL(π(x) || p(x|θ)) {words(report.forward_x)}   KL(p(z|θ) || p(z)) {words(report.forward_z)}   forward",
            f"    by grids of x, z {found.by_x:10.6f}            {'':18} {found.by_z:10.6f}"
            f"            the report is {off:.1f} standard errors away",
            f"  KL(p(x|θ) || π(x)) {words(report.reverse_x)}   KL(p(z) || p(z|θ)) {words(report.reverse_z)}   reverse",
            f"  the largest difference of two sides, over all draws: {report.duality_error:.1e}",
        ]
    )


def words(found: Divergence) -> str:
    """Value and error, one width."""
    return f"{found.value:10.6f} ± {found.standard_error:.6f}"


@torch.no_grad()
def draw(results: dict[str, Found], path: Path) -> None:
    """Above, π in grey and p(x|θ) in lines; below, draws of π encoded, on the circles of p(z)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.6), dpi=150, layout="constrained")
    side = torch.linspace(-4, 4, 121, dtype=DOUBLE)
    x1, x2 = torch.meshgrid(side, side, indexing="xy")
    points, encoded = torch.stack([x1, x2], -1), TARGET.sample((600,))
    for (above, below), (name, found) in zip(figure.subplots(2, len(results)).T, results.items(), strict=True):
        above.contourf(array(x1), array(x2), array(TARGET.log_prob(points).exp()), levels=8, cmap="Greys")
        density = FlowDistribution(BASE, found.flow).log_prob(points).exp()
        above.contour(array(x1), array(x2), array(density), levels=6, colors=ACCENT, linewidths=1)
        above.set_title(name, fontsize=9)
        z = array(found.flow.encode(encoded)[0])
        below.plot(z[:, 0], z[:, 1], ".", ms=2, color=SECOND)
        base = array(BASE.log_prob(points).exp())
        below.contour(array(x1), array(x2), base, levels=6, colors=ACCENT, linewidths=1)
        reach = max(4.0, float(abs(z).max()))
        below.set(xlim=(-reach, reach), ylim=(-reach, reach))
        quiet(above, xlabel="x")
        quiet(below, xlabel="z: draws of π, encoded, and p(z)")
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    settings = parser.parse_args()
    if settings.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    settings.out.mkdir(parents=True, exist_ok=True)
    steps, num_samples, points = (3, 300, 100) if settings.smoke else (1000, 20_000, 400)
    results: dict[str, Found] = {}
    print(f"{steps} steps, seeds 0 (fit), 1 (draws to fit to), 2 (report, {num_samples} draws); float64, nats")
    for name, (make, fit) in FITS.items():
        torch.manual_seed(0)
        flow = make()
        fit(flow, steps=steps, lr=5e-2 if isinstance(flow, LULinear) else 1e-2)
        results[name] = measure(flow, num_samples=num_samples, points=points)
        print(table(name, results[name]), flush=True)
    print("what one mode costs, log 1/weight:", ", ".join(f"{-float(w.log()):.6f}" for w in WEIGHTS))
    draw(results, settings.out / "kl_duality.png")


if __name__ == "__main__":
    main()
