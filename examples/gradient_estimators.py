"""Every gradient for discrete latents, held against the exact one: bias, variance, signal to noise, cost.

Eight binary latents have 2^8 = 256 values, so the gradient of the ELBO is a sum that can be made. Each estimator draws
its own many times at the same parameters: is its mean the sum, along fixed random directions, and how much does it
scatter? VIMCO is held against the gradient of its own bound, a sum over all 256^2 pairs of draws. Gumbel-softmax is
biased, the less the lower its temperature; and the lecture's "not equal": the E-step as if q did not depend on its
parameters.

    python examples/gradient_estimators.py            (five minutes)
    python examples/gradient_estimators.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from ppl_vae import ELBO, IWAE, RLOO, VIMCO, DisARM, Pair, ReweightedWakeSleep, ScoreFunction, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.diagnostics import GradientReport, NaiveEStep, gradient_report
from ppl_vae.guides import AmortizedNormal, EnumeratedCategorical, RelaxedCategorical, SampledCategorical
from ppl_vae.models import VAE, DiscreteVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import Neural, RunningAverage
from ppl_vae.plots import gradient_noise

LATENTS, CLASSES = {"num_latents": 8, "num_classes": 2}, 2
TEMPERATURES = (1.0, 0.5, 0.25, 0.1)


def discrete(train: torch.Tensor, epochs: int) -> tuple[DiscreteVAE, nn.Module]:
    """A model and an encoder somewhere on the way of training, by the exact gradient."""
    torch.manual_seed(0)
    model = DiscreteVAE(MLP(8 * CLASSES, 64, hidden=(32,)), likelihood="bernoulli", **LATENTS)
    encoder = MLP(64, 8 * CLASSES, hidden=(32,))
    VariationalEM(model, EnumeratedCategorical(encoder, **LATENTS)).fit(train, epochs=epochs, batch_size=100)
    return model, encoder


def of_discrete_latents(train: torch.Tensor, rows: torch.Tensor, epochs: int, replicates: int) -> GradientReport:
    """Every estimator around the same encoder."""
    model, encoder = discrete(train, epochs)
    sampled = Pair(model, SampledCategorical(encoder, **LATENTS))
    baseline = Neural(MLP(64, 1, hidden=(32,)))
    estimators: dict[str, object] = {
        "sum over all values": (Pair(model, EnumeratedCategorical(encoder, **LATENTS)), ELBO()),
        "score function": ScoreFunction(),
        "score function, 4 draws": ScoreFunction(num_particles=4),
        "  with running average": ScoreFunction(RunningAverage()),
        "  with NVIL's baselines": ScoreFunction((RunningAverage(), baseline)),
        "RLOO(4)": RLOO(4),
        "DisARM": DisARM(),
        "VIMCO(2), its own bound": VIMCO(2),
        "wake-sleep, 2 draws": ReweightedWakeSleep(2),
    }
    for temperature in TEMPERATURES:
        relaxed = RelaxedCategorical(encoder, temperature=temperature, **LATENTS)
        estimators[f"Gumbel-softmax at {temperature:g}"] = (Pair(model, relaxed), ELBO())
    estimators["naive E-step"] = NaiveEStep()
    return gradient_report(sampled, rows, estimators, num_replicates=replicates)


def of_continuous_latents(rows: torch.Tensor, replicates: int, *, smoke: bool) -> GradientReport:
    """The reparametrization trick, and the same warning, for a VAE; the reference is a mean of many draws."""
    torch.manual_seed(0)
    pair = Pair(
        VAE(MLP(4, 64, hidden=(32,)), latent_dim=4, likelihood="bernoulli"),
        AmortizedNormal(MLP(64, 8, hidden=(32,)), latent_dim=4),
    )
    estimators = {
        "pathwise, KL in closed form": ELBO(),
        "pathwise, KL drawn": ELBO(analytic_kl=False),
        "IWAE(5), its own bound": IWAE(5),
        "IWAE(5, 'dreg'), its own bound": IWAE(5, gradient="dreg"),
        "naive E-step": NaiveEStep(),
    }
    if smoke:  # the reference of a bound with several draws takes a minute
        estimators = {name: found for name, found in estimators.items() if not name.startswith("IWAE")}
    return gradient_report(pair, rows, estimators, num_replicates=replicates)


def table(report: GradientReport) -> str:
    """The gradient in φ, and the largest z in θ."""
    lines = [f"{'gradient in φ':<32}{'z':>8} {'bias':>9} {'variance':>10} {'snr':>8} {'ms':>7} {'z in θ':>8}"]
    for name, groups in report.found.items():
        phi, theta = groups["phi"], groups["theta"]
        bias = f"{phi.bias_norm / phi.norm:8.1%}" if phi.z > 4.5 else "none seen"
        lines.append(
            f"{name:<32}{shown(phi.z):>8} {bias:>9} {phi.variance:10.3g} {shown(phi.snr):>8} {1e3 * phi.seconds:7.2f}"
            f" {shown(theta.z):>8}"
        )
    return "\n".join(lines)


def shown(ratio: float) -> str:
    """A ratio to a noise; what has no noise is certain."""
    return f"{ratio:.2f}" if ratio < 1e6 else "no noise"


def verdict(report: GradientReport) -> str:
    """What the numbers say of the claims above."""
    phi = {name: groups["phi"] for name, groups in report.found.items()}
    unbiased = [name for name in phi if not name.startswith(("Gumbel", "naive", "wake"))]
    worst = max(max(report.found[name][g].z for g in ("theta", "phi")) for name in unbiased)
    relaxed = [phi[f"Gumbel-softmax at {t:g}"].bias_norm for t in TEMPERATURES]
    steps = " > ".join(f"{b / phi['RLOO(4)'].norm:.1%}" for b in relaxed)
    ratio = phi["score function, 4 draws"].variance / phi["RLOO(4)"].variance
    return (
        f"largest |z| of the unbiased ones: {worst:.1f} (4.5 would be a bias)\n"
        f"Gumbel-softmax, bias as a part of the gradient at temperatures {TEMPERATURES}: {steps}\n"
        f"four draws without a baseline have {ratio:.1f} times the variance of RLOO(4)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    epochs, replicates = (1, 20) if options.smoke else (20, 5000)
    train = load_digits(binary=True).train
    report = of_discrete_latents(train, train[:10], epochs, replicates)
    print(f"8 binary latents, 10 digits, {replicates} gradients of each; the reference is the sum over 256 values")
    print(table(report), verdict(report), sep="\n")
    continuous = of_continuous_latents(train[:10], replicates // 5, smoke=options.smoke)
    print(f"\n4 normal latents, {replicates // 5} gradients of each; the reference is the mean of 20,000 draws")
    print(table(continuous))
    path = options.out / "gradient_estimators.png"
    gradient_noise(report).figure.savefig(path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
