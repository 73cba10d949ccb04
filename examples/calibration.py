"""Is an amortized guide right? Ask data that the model has made itself: five guides, of which one is the posterior.

    z ~ N(0, I_2),    x | z ~ N(W z, 0.8^2 I_4)

W is such that the posterior ties both latents (correlation -0.8). It is normal and known, so every guide can be made
wrong in one way alone: with 0.7 of its standard deviations, shifted by 0.4 of them, the best of the mean-field family
(right means, and what fitting by an ELBO ends at), and the prior, which ignores x.

``diagnostics.calibration`` draws z* from the prior and x* from the model. Then z* is an exact posterior draw, and its
rank among draws of the guide is uniform if that is the posterior. No fit is made again: a guide that is a function of
the datum is asked 1000 times in one run.

Watch the last column. For the prior all ranks of latents are uniform, and regions of highest density and TARP cover
what they should: its draws are calibrated, and useless. They explain x less well than z* does, which is what
log p(x | z) sees.

    python examples/calibration.py            (seconds)
    python examples/calibration.py --smoke    (fewer simulations)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.diagnostics import Calibration, calibration
from ppl_vae.plots.axes import ACCENT, INK, SECOND

NOISE = 0.8
WEIGHT = torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.8, 0.9], [0.3, 0.6]])
PRECISION = torch.eye(2) + WEIGHT.T @ WEIGHT / NOISE**2
COVARIANCE = PRECISION.inverse()
FACTOR = torch.linalg.cholesky(COVARIANCE)
SDS = COVARIANCE.diagonal().sqrt()


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, NOISE).to_event(1), obs=x)


def guide(q: Callable[[Tensor], dist.Distribution]) -> Callable[[Tensor], None]:
    """A guide of the posterior mean of each datum, (N, 2)."""

    def sites(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x @ WEIGHT @ COVARIANCE / NOISE**2))

    return sites


GUIDES = {
    "the posterior": guide(lambda mean: dist.MultivariateNormal(mean, scale_tril=FACTOR)),
    "sd × 0.7": guide(lambda mean: dist.MultivariateNormal(mean, scale_tril=0.7 * FACTOR)),
    "shifted by 0.4 sd": guide(lambda mean: dist.MultivariateNormal(mean + 0.4 * SDS, scale_tril=FACTOR)),
    "best mean field": guide(lambda mean: dist.Normal(mean, PRECISION.diagonal() ** -0.5).to_event(1)),
    "the prior": guide(lambda mean: dist.Normal(torch.zeros_like(mean), 1.0).to_event(1)),
}


def report(found: dict[str, Calibration]) -> None:
    """A column a guide: every p-value, and the share of 90 % regions and intervals that hold the truth."""
    labels = list(next(iter(found.values())).ranked)
    for what, cell in (
        ("p-values", lambda c, label: f"{c.p_values[label]:.1g}"),
        ("90 % regions and intervals that hold the truth", lambda c, label: f"{100 * c.coverage(0.9)[label]:.0f} %"),
    ):
        print(f"\n{what}\n{'':<16}" + "".join(f"{name:>20}" for name in found))
        for label in labels:
            print(f"{label:<16}" + "".join(f"{cell(c, label):>20}" for c in found.values()))
    print()
    for name, calibrated in found.items():
        print(f"{name}: {calibrated}\n")


def draw(found: dict[str, Calibration], path: Path) -> None:
    """A column a guide: above ranks, below coverage; grey is where an exact guide keeps to."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.0, 7.4), dpi=100, layout="constrained")
    grid = figure.subplots(2, len(found), sharex=True, sharey="row", height_ratios=[1.5, 1])
    for column, (name, calibrated) in enumerate(found.items()):
        top, bottom = grid[0, column], grid[1, column]
        calibrated.plot(ax=top)
        calibrated.plot(regions=True, ax=bottom)
        passes = calibrated.passes
        top.set_title(f"{name}\n{'calibrated' if passes else 'NOT calibrated'}", fontsize=16,
                      color=ACCENT if passes else SECOND)  # fmt: skip
        for ax, low, high in ((top, -0.65, 0.3), (bottom, -0.35, 0.2)):
            ax.set_ylim(low, high)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            ax.tick_params(labelsize=12)
            ax.texts[-1].remove()  # the count of those outside, which the title says
            for text in ax.texts:
                text.set_fontsize(12)
        top.set_xlabel("")
        bottom.set_xlabel("")
        if column:
            top.set_ylabel("")
            bottom.set_ylabel("")
    grid[0, 0].set_ylabel("ranks − uniform", fontsize=14, color=INK)
    grid[1, 0].set_ylabel("coverage − level", fontsize=14, color=INK)
    words = "above: rank of the truth among draws of the guide; below: level of a region of the guide"
    figure.supxlabel(f"{words}.   Grey: where an exact guide keeps to", fontsize=14)
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
    torch.set_num_threads(1)
    size = {"num_simulations": 100, "num_samples": 19} if options.smoke else {"num_simulations": 1000}
    x = torch.zeros(10, 4).bernoulli(0.5)  # rows such as the model is called with; no number of theirs counts
    found = {name: calibration(Pair(model, q), x, **size) for name, q in GUIDES.items()}
    report(found)
    draw(found, options.out / "calibration.png")


if __name__ == "__main__":
    main()
