"""Do the error bars of log p(x) hold? Linear-Gaussian models, where log p(x) is known, by how good the guide is.

For each guide: the share of rows whose 95 % interval (value ± 1.96 standard errors) holds the exact log p(x), among all
rows and among those called reliable, the mean error bar, how many of its own errors the mean over the rows is off,
and the share of sets of 30 rows whose mean().interval() holds the mean of log p(x); by the guide's own draws alone
(widths=(1.0,)), by the default proposal, by Laplace, and by annealing (16 chains, whatever K is). Then the seconds that
each takes: medians of runs in turn.
Small by default: a share of 600 rows has an error of about 1 %.

    python benchmarks/coverage.py            (minutes)
    python benchmarks/coverage.py --smoke    (seconds)
    python benchmarks/coverage.py --rows 2000 --draws 1000 --repeats 5
"""

from __future__ import annotations

import argparse
import math
import time
from statistics import median

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae import ImportanceWeighted, Pair, log_evidence
from ppl_vae.evidence import Annealed, Evidence, Laplace, Sequential

NOISE, SET, ROUNDING = 0.6, 30, 1e-9
ESTIMATORS = {
    "guide alone": lambda draws: ImportanceWeighted(draws, widths=(1.0,)),
    "default": ImportanceWeighted,
    "Laplace": Laplace,
    "annealed": lambda draws: Annealed(300, 16),
    "... from guide": lambda draws: Annealed(100, 16, start="guide"),
    "sequential": lambda draws: Sequential(30, max(16, draws // 4)),
}


class Problem:
    """x = W z + noise, D latents and 2 D numbers a row (or a posterior of one correlation); a guide by its name."""

    def __init__(self, size: int, guide: str, rows: int, rho: float | None = None) -> None:
        self.size, self.rows = size, rows
        generator = torch.Generator().manual_seed(4)
        normal = {"generator": generator, "dtype": torch.float64}
        eye = torch.eye(size, dtype=torch.float64)
        if rho is None:
            self.weights = torch.randn(size, 2 * size, **normal) / math.sqrt(size)
        else:  # the posterior's correlations are all rho
            covariance = min(0.1, 0.9 / (1 + rho * (size - 1))) * (rho + (1 - rho) * eye)  # narrower than the prior
            self.weights = NOISE * torch.linalg.cholesky(torch.linalg.inv(covariance) - eye)
        self.x = torch.randn(rows, size, **normal) @ self.weights
        self.x += NOISE * torch.randn(*self.x.shape, **normal)
        precision = eye + self.weights @ self.weights.T / NOISE**2
        covariance = torch.linalg.inv(precision)
        self.loc = self.x @ self.weights.T / NOISE**2 @ covariance
        factor = torch.linalg.cholesky(covariance)
        self.shift, self.factor = {
            "good": (0.05, 1.05 * factor),
            "mean field": (0.0, precision.diagonal().rsqrt().diag()),
            "30 % narrower": (0.5, 0.7 * factor),
        }[guide]
        self.loc = self.loc + self.shift * factor.sum(-1)
        marginal = self.weights.T @ self.weights + NOISE**2 * torch.eye(self.x.shape[1], dtype=torch.float64)
        self.truth = dist.MultivariateNormal(torch.zeros(self.x.shape[1]).double(), marginal).log_prob(self.x)
        self.pair = Pair(self.model, self.guide, dtype=torch.float64).initialize(self.x)

    def model(self, x: Tensor) -> None:
        """p(x, z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weights, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.factor))

    def row(self, found: Evidence) -> str:
        """Coverage in all, with a good k-hat, the mean error bar, and the error of the mean in its own errors."""
        hit = ((found.value - self.truth).abs() <= 1.96 * found.standard_error + ROUNDING).double()
        good, known = found.reliable, found.standard_error[~found.standard_error.isnan()]
        share = f"{100 * float(hit[good].mean()):6.1f}" if bool(good.any()) else "     -"
        error = float(known.square().sum().sqrt()) / self.rows
        off = float((found.value - self.truth).mean()) / error if error > 0 else 0.0
        trusted = f"{share:>9} ({int(good.sum()):>5} rows)"
        means = 100 * float(self.covered_means(found).double().mean())
        mean_error = f"{float(known.mean()):8.3f}" if len(known) else "       -"
        return f"{100 * float(hit.mean()):7.1f}{trusted}{mean_error}{off:+8.1f}{means:7.0f}"

    def covered_means(self, found: Evidence) -> Tensor:
        """Of sets of rows: does the interval of the mean hold it? Without an interval it does not."""
        held = []
        for begin in range(0, self.rows - SET + 1, SET):
            rows = slice(begin, begin + SET)
            fields = {name: getattr(found, name)[rows] for name in ("value", "standard_error", "ess", "khat")}
            fewer = None if found.fewer is None else found.fewer[:, rows]
            low, high = Evidence(**fields, bound=found.bound, estimator="", fewer=fewer).mean().interval()
            held.append(low - ROUNDING < float(self.truth[rows].mean()) < high + ROUNDING)
        return torch.tensor(held)


PROBLEMS = {
    "good, D = 5": (5, "good", None),
    "mean field, D = 5": (5, "mean field", None),
    "mean field, D = 10": (10, "mean field", None),
    "30 % narrower, shifted, D = 10": (10, "30 % narrower", None),
    "mean field, D = 10, rho = 0.5": (10, "mean field", 0.5),
    "mean field, D = 20, rho = 0.9": (20, "mean field", 0.9),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600, help="replications")
    parser.add_argument("--draws", type=int, default=1000, help="K, of all widths together")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    parser.add_argument("--smoke", action="store_true", help="few rows, few draws")
    options = parser.parse_args()
    if options.smoke:
        options.rows, options.draws, options.repeats = 50, 200, 1
    print(f"{options.rows} rows, K = {options.draws}, nominal 95 %")
    print(f"{'guide':32}{'proposal':15}{'all':>7}{'reliable':>21}{'SE':>8}{'mean/SE':>8}{'means':>7}{'seconds':>9}")
    for name, (size, guide, rho) in PROBLEMS.items():
        problem = Problem(size, guide, options.rows, rho)
        seconds: dict[str, list[float]] = {label: [] for label in ESTIMATORS}
        found = {}
        for _ in range(options.repeats):
            for label, estimator in ESTIMATORS.items():
                started = time.perf_counter()
                found[label] = log_evidence(problem.pair, problem.x, estimator(options.draws))
                seconds[label].append(time.perf_counter() - started)
        for label, evidence in found.items():
            print(f"{name:32}{label:15}{problem.row(evidence)}{median(seconds[label]):9.2f}", flush=True)


if __name__ == "__main__":
    main()
