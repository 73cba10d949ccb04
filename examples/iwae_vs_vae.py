"""The importance weighted bound beside the ELBO: a better log p(x), a worse ELBO, and three gradients of one bound.

    L_K(x) = E[ log 1/K sum_k p(x, z_k) / q(z_k | x) ],      ELBO = L_1 <= L_2 <= ... <= log p(x)

IWAE trains q to propose well, not to look like the posterior, so its fits must not be compared by their ELBO. What all
are judged by here is the importance weighted log-likelihood of test rows, with its Monte Carlo error, and the
difference to the plain VAE row by row.

    python examples/iwae_vs_vae.py            (two minutes)
    python examples/iwae_vs_vae.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ppl_vae import ELBO, IWAE, Fit, ImportanceWeighted, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.evidence import Evidence
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots.axes import ACCENT, SECOND, quiet


def objectives(particles: int) -> dict[str, ELBO | IWAE]:
    """What is compared: one draw, K draws averaged outside the log, and K draws inside it with three gradients."""
    return {
        "ELBO()": ELBO(),
        f"ELBO(num_particles={particles})": ELBO(num_particles=particles),
        f"IWAE({particles})": IWAE(particles),
        f"IWAE({particles}, 'stl')": IWAE(particles, gradient="stl"),
        f"IWAE({particles}, 'dreg')": IWAE(particles, gradient="dreg"),
    }


def fit_one(objective: ELBO | IWAE, train: torch.Tensor, *, epochs: int) -> Fit:
    """The same VAE from the same start on the same batches, under one objective."""
    torch.manual_seed(0)
    model = VAE(MLP(8, 64), latent_dim=8, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 16), latent_dim=8)
    return VariationalEM(model, guide, objective=objective).fit(train, epochs=epochs, batch_size=100, seed=0)


def line(name: str, fit: Fit, elbo: float, evidence: Evidence, baseline: Evidence) -> str:
    """One row of the table; the difference to the baseline is paired, with its standard error over rows."""
    mean, difference = evidence.mean(), evidence.value - baseline.value
    error = float(difference.std()) / len(difference) ** 0.5
    trusted = 100 * float(evidence.reliable.double().mean())
    return (
        f"{name:<24}{elbo:9.3f} {mean.value:10.3f} ± {mean.error_in_words('.3f')}"
        f" {float(difference.mean()):+9.3f} ± {error:.3f} {trusted:8.0f} % {fit.seconds:8.1f}"
    )


def draw(results: dict[str, tuple[float, Evidence]], path: Path) -> None:
    """For each objective the ELBO and the log-likelihood of the test rows."""
    from matplotlib.figure import Figure

    ax = Figure(figsize=(8, 3.6), dpi=150, layout="constrained").add_subplot()
    for height, (elbo, evidence) in enumerate(results.values()):
        mean = evidence.mean()
        ax.plot([elbo, mean.value], [height, height], color="#dddddd", lw=6, zorder=1)
        ax.plot(elbo, height, "o", color=SECOND, label="ELBO" if height == 0 else None)
        ax.errorbar(
            mean.value, height, xerr=2 * mean.standard_error, fmt="o", color=ACCENT,
            label="log p(x), importance weighted, ± 2 standard errors" if height == 0 else None,
        )  # fmt: skip
    ax.set_yticks(range(len(results)), results)
    ax.invert_yaxis()
    ax.margins(y=0.2)
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    quiet(ax, xlabel="nats a test digit").figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    particles, epochs, num_samples = (3, 1, 50) if options.smoke else (10, 100, 5000)
    data = load_digits(binary=True)
    results: dict[str, tuple[float, Evidence]] = {}
    print("objective                    ELBO   log p(x) ± error   against ELBO()   k-hat < 0.7  seconds")
    for name, objective in objectives(particles).items():
        fit = fit_one(objective, data.train, epochs=epochs)
        elbo = float(fit.elbo(data.test).mean())
        evidence = fit.log_evidence(data.test, ImportanceWeighted(num_samples))
        results[name] = elbo, evidence
        print(line(name, fit, elbo, evidence, results["ELBO()"][1]), flush=True)
    draw(results, options.out / "iwae_vs_vae.png")


if __name__ == "__main__":
    main()
