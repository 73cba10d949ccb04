"""Is my log-likelihood real? The evidence of a VAE on digits from both sides.

    below:  log p(x) >= E[log mean w]:       draws of the guide, or chains that walk from the prior to the posterior
    above:  log p(x) <= E[-log mean (1 / w)]:  chains that walk back from a draw of the posterior

Of digits that the model has simulated the latents that made them are such a draw, so both sides are bounds, and the gap
between them is all that can be wrong. Of real digits nobody has one: there the upper side is an estimate, and what is
left is that two ways which have nothing in common agree.

Roger Grosse, Siddharth Ancha, Daniel Roy: "Measuring the reliability of MCMC inference with bidirectional Monte Carlo",
2016.

    python examples/sandwich.py            (a minute)
    python examples/sandwich.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae import Fit, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.evidence import Annealed, Evidence, ImportanceWeighted, Laplace, Sandwich, log_evidence, sandwich
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.plots.axes import ACCENT, INK, SECOND, quiet

LATENT, FAR = 8, 4.5


def fit(train: Tensor, epochs: int) -> Fit:
    """The VAE of the README."""
    torch.manual_seed(0)
    model = VAE(MLP(LATENT, 64, hidden=(128, 128)), latent_dim=LATENT, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(64, 2 * LATENT, hidden=(128, 128)), latent_dim=LATENT)
    return VariationalEM(model, guide).fit(train, epochs=epochs, batch_size=100, seed=0, progress=False)


def line(name: str, evidence: Evidence, seconds: float) -> None:
    """A row of the table."""
    mean, rows = evidence.mean(), evidence.value.numel()
    reliable = f"{int(evidence.reliable.sum())} of {rows}"
    print(
        f"{name:<34}{mean.value:>9.3f}{mean.error_in_words('.3f'):>10}{reliable:>13}{seconds:>9.1f}   {evidence.bound}"
    )


def agreement(chains: Evidence, weights: Evidence) -> Tensor:
    """How many joint errors two estimates of a row differ by, of rows that both call reliable; else nan."""
    error = (chains.standard_error.square() + weights.standard_error.square()).sqrt()
    apart = (chains.value - weights.value) / error
    return apart.masked_fill(~(chains.reliable & weights.reliable), torch.nan)


def draw(found: Sandwich, weights: Evidence, path: Path) -> None:
    """The gap of simulated digits, and how far both sides of the real ones are from importance weights."""
    from matplotlib.figure import Figure

    assert found.simulated is not None
    figure = Figure(figsize=(13.3, 5.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    gap = found.simulated.gap
    left.hist(gap.clamp(-1, 1).numpy(), bins=40, color=ACCENT)
    left.axvline(0, color=INK, lw=0.8)
    left.set_title(
        f"simulated digits: upper - lower bound\nmedian {float(gap.median()):.3f} nats", fontsize=13, color=INK
    )
    quiet(left, xlabel="gap (nats)", ylabel="digits")
    for side, color, label in ((found.lower, ACCENT, "from the prior"), (found.upper, SECOND, "back, an estimate")):
        apart = side.value - weights.value
        right.scatter(
            weights.value, apart, s=14, color=color, lw=0, label=f"chains {label}: mean {float(apart.mean()):+.3f}"
        )
    right.axhline(0, color=INK, lw=0.8)
    right.set_title(f"real digits: chains and {weights.estimator}", fontsize=13, color=INK)
    quiet(right, xlabel="log p(x) by importance weights (nats)", ylabel="chains - importance weights (nats)")
    right.legend(frameon=False, fontsize=11, loc="lower right")
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
    data = load_digits(binary=True)
    fitted = fit(data.train, 2 if options.smoke else 150)
    test = data.test[:20] if options.smoke else data.test
    few = 20 if options.smoke else 5000
    chains = Annealed(10, 8) if options.smoke else Annealed(250, 16)

    print(f"{len(test)} digits, nats a digit\n{'':<34}{'log p(x)':>9}{'error':>10}{'reliable':>13}{'seconds':>9}")
    ways = {
        "ELBO": ImportanceWeighted(1),
        f"{few} importance weights": ImportanceWeighted(few),
        "Laplace": Laplace(few),
    }
    estimates = {}
    for name, estimator in ways.items():
        started = time.perf_counter()
        estimates[name] = log_evidence(fitted, test, estimator)
        line(name, estimates[name], time.perf_counter() - started)
    started = time.perf_counter()
    found = sandwich(fitted, test, chains)
    seconds = time.perf_counter() - started
    line("chains from the prior", found.lower, seconds)
    line("chains back", found.upper, seconds)
    assert found.simulated is not None
    line("simulated digits: from the prior", found.simulated.lower, seconds)
    line("simulated digits: back", found.simulated.upper, seconds)

    weights = estimates[f"{few} importance weights"]
    apart = agreement(found.lower, weights)
    known, far = int((~apart.isnan()).sum()), (apart.abs() > FAR).nonzero()[:, 0].tolist()
    print(f"\n{found!r}")
    print(
        f"chains and weights differ by more than {FAR} joint errors for {len(far)} of {known} digits that both call "
        f"reliable{': ' + str(far) if far else ''}"
    )
    draw(found, weights, options.out / "sandwich.png")


if __name__ == "__main__":
    main()
