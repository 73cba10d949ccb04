"""Eight schools, three ways: what a normal guide misses, and the certificate that says so.

    centred:      theta_j ~ N(mu, tau^2)
    non-centred:  theta_j = mu + tau eta_j,   eta_j ~ N(0, 1)
    both:         mu ~ N(0, 5^2),   tau ~ HalfCauchy(5),   y_j ~ N(theta_j, s_j^2)

One model, written in two ways. The centred posterior is a funnel, which no normal fits: the density goes on rising
towards tau = 0, and the neck is missed. Non-centred, a normal with full covariance is near, but too narrow: draws with
weights are right. Where the guide is left out a ladder of guides is tried, up to a flow, whose own draws are right.
Given tau all else is normal, so log Z and the posterior of tau are had by quadrature, and each way is held to them;
so is leave-one-out, log p(y_j | the other schools): of eight rows each moves the posterior, and k-hats are high.

Donald Rubin, "Estimation in parallel randomized experiments", 1981.

    python examples/eight_schools.py            (half a minute)
    python examples/eight_schools.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import ppl_vae
from ppl_vae.evidence import error_in_words
from ppl_vae.plots.axes import ACCENT, INK, SECOND, quiet

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
LOG_Z = -31.3113473523


def centred(y, s):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, s), obs=y)


def non_centred(y, s):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, s), obs=y)


@dataclass(frozen=True)
class Law:
    """A posterior of log tau as weighted points: a grid, or draws."""

    log_tau: Tensor
    weight: Tensor

    def probability(self, most: float) -> float:
        """P(tau < most)."""
        return float(self.weight[self.log_tau < math.log(most)].sum())

    def mean(self) -> float:
        """E[tau]."""
        return float((self.weight * self.log_tau.exp()).sum())


def exact(keep: Tensor | slice = slice(None), points: int = 20_001) -> tuple[float, Law]:
    """Log Z and the posterior of log tau, on a grid: given tau, y ~ N(0, diag(s^2 + tau^2) + 25)."""
    log_tau = torch.linspace(-30.0, 8.0, points, dtype=torch.float64)
    y, s, tau = EFFECT.double()[keep], ERROR.double()[keep], log_tau.exp()
    covariance = torch.diag_embed(s.square() + tau.square().unsqueeze(1)) + 25.0
    likelihood = dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
    density = likelihood + dist.HalfCauchy(y.new_tensor(5.0)).log_prob(tau) + log_tau
    log_z = float(density.logsumexp(0) + (log_tau[1] - log_tau[0]).log())
    return log_z, Law(log_tau, density.softmax(0))


def left_out() -> float:
    """The sum of log p(y_j | the other schools) = log Z - log Z of the others."""
    others = [torch.arange(len(EFFECT)) != j for j in range(len(EFFECT))]
    return sum(exact()[0] - exact(keep)[0] for keep in others)


@dataclass(frozen=True)
class Found:
    """A fit, the seconds it took, and what its draws say of tau: the guide's as they are, and weighted ones."""

    fit: ppl_vae.Fit
    seconds: float
    plain: Law
    weighted: Law


def fit(model, guide, draws: int, **options) -> Found:
    """Until it is done."""
    data, started = (EFFECT, ERROR), time.perf_counter()
    fitted = ppl_vae.fit(model, guide, data, **options)
    seconds = time.perf_counter() - started
    plain, weighted = fitted.draw(data, draws).values["tau"], fitted.weighted_draws(data, draws)
    return Found(
        fitted,
        seconds,
        Law(plain.double().log(), torch.full((draws,), 1 / draws, dtype=torch.float64)),
        Law(weighted.values["tau"].double().log(), weighted.weights),
    )


def report(found: dict[str, Found], truth: Law) -> None:
    """The certificates, and tau by each."""
    for name, each in found.items():
        print(f"\n{name}, {each.seconds:.1f} s\n{each.fit.certificate}")
    print(f"\n{'':<28}{'log Z - ELBO':>13}{'log Z, estimated':>20}{'k-hat':>7}{'seconds':>9}   certificate")
    for name, each in found.items():
        numbers, given = each.fit.certificate.numbers, each.fit.certificate.given
        error = numbers["log_evidence_error"]
        estimate = f"{numbers['log_evidence']:.3f} ± {'unknown' if error is None else format(error, '.3f')}"
        print(
            f"{name:<28}{LOG_Z - numbers['elbo']:>13.3f}{estimate:>20}{numbers['khat']:>7.2f}{each.seconds:>9.1f}   "
            f"{'given' if given else 'not given'}"
        )
    print(f"\n{'':<48}{'E[tau]':>8}{'P(tau < 1)':>12}")
    print(f"{'quadrature':<48}{truth.mean():>8.2f}{truth.probability(1):>12.3f}")
    for name, each in found.items():
        for kind, law in {"the guide's draws": each.plain, "weighted": each.weighted}.items():
            print(f"{name + ': ' + kind:<48}{law.mean():>8.2f}{law.probability(1):>12.3f}")


def report_left_out(found: dict[str, Found], draws: int) -> None:
    """Leave-one-out by weighted draws, beside quadrature."""
    print(f"\n{'leave-one-out, all schools':<48}{'nats':>18}{'k-hat at most':>16}")
    print(f"{'quadrature':<48}{left_out():>18.3f}")
    for name, each in found.items():
        scored = each.fit.loo((EFFECT, ERROR), num_samples=draws)
        value = f"{scored.elpd:.3f} ± {error_in_words(scored.standard_error, '.3f')}"
        believed = "" if scored.reliable.all() else "   not to be believed"
        print(f"{name:<48}{value:>18}{float(scored.khat.max()):>16.2f}{believed}")


def draw(found: dict[str, Found], truth: Law, path: Path) -> None:
    """The posterior of tau, on an axis of log tau: exact, the guide's draws, weighted ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.3, 5.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True)
    edges = np.linspace(math.log(0.05), math.log(60), 41)
    density = truth.weight / (truth.log_tau[1] - truth.log_tau[0])
    for ax, (name, each) in zip(axes, found.items(), strict=True):
        ax.fill_between(truth.log_tau, density, color="#D9D9D9", label="exact, by quadrature")
        for law, style in (
            (each.plain, {"color": SECOND, "lw": 2.5, "ls": (0, (4, 1.5)), "label": "the guide's draws"}),
            (each.weighted, {"color": ACCENT, "lw": 2.5, "label": "weighted draws"}),
        ):
            mass, _ = np.histogram(law.log_tau, edges, weights=law.weight)
            ax.stairs(mass / np.diff(edges), edges, **style)
        ax.set_title(title(name, each), fontsize=12.5, color=INK, linespacing=1.4)
        laws = {"exact": truth, "guide": each.plain, "weighted": each.weighted}
        words = "\n".join(f"{law.probability(1):.2f}  {of}" for of, law in laws.items())
        ax.text(0.03, 0.62, f"P(tau < 1)\n{words}", transform=ax.transAxes, va="top", fontsize=13, color=INK)
        ticks = [0.1, 0.3, 1, 3, 10, 30]
        ax.set_xticks([math.log(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(0)
        quiet(ax, xlabel="tau (points of the test, log scale)")
        ax.tick_params(labelsize=13)
        ax.xaxis.label.set_size(14)
    axes[0].set_ylabel("posterior density of log tau", fontsize=14)
    axes[-1].legend(frameon=False, fontsize=13, loc="upper left")
    figure.savefig(path)
    print(f"drawn: {path}")


def title(name: str, found: Found) -> str:
    """What the certificate says, in three lines."""
    certificate = found.fit.certificate
    failed = ", ".join(line.what for line in certificate.failed)
    gap = f"{LOG_Z - certificate.numbers['elbo']:.2f} nats below log Z, k-hat {certificate.numbers['khat']:.2f}"
    return f"{name}\n{gap}\n" + ("certificate given" if certificate.given else f"not given: {failed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    log_z, truth = exact()
    print(f"log Z {log_z:.10f} nats, by quadrature")
    if abs(log_z - LOG_Z) > 1e-9:
        raise AssertionError(f"log Z by quadrature is {log_z:.10f}, and {LOG_Z} was written down")
    draws, ladder = (500, {"rungs": ["mean field"]}) if options.smoke else (40_000, {})
    found = {
        "centred, full rank": fit(centred, AutoMultivariateNormal(centred), draws),
        "non-centred, full rank": fit(non_centred, AutoMultivariateNormal(non_centred), draws),
        "non-centred, guide left out": fit(non_centred, "auto", draws, **ladder),
    }
    report(found, truth)
    report_left_out(found, min(draws, 20_000))
    draw(found, truth, options.out / "eight_schools.png")


if __name__ == "__main__":
    main()
