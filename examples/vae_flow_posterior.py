"""A flow on either side of a VAE: in the posterior q(z | x), or in the prior p(z), beside two normals.

    log p(x) = ELBO + KL(q(z | x) || p(z | x))

A flow posterior can close the gap, a flow prior can raise log p(x) itself. All three pairs have the same decoder and
the same encoder trunk, and are fitted from three seeds, with a KL that warms up; the last 200 training rows choose the
epoch. They are judged by the importance weighted log-likelihood of the test rows, and the difference to the plain VAE
is taken row by row. Neither flow has to win: with 1300 rows to train on the three end within the noise of their seeds.

    python examples/vae_flow_posterior.py            (five minutes)
    python examples/vae_flow_posterior.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae import ELBO, Fit, ImportanceWeighted, KeepBest, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.flows import AffineCoupling, Chain, ElementwiseAffine, Half, Inverse, Layer
from ppl_vae.guides import AmortizedFlow, AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.models.priors import FlowPrior, Prior
from ppl_vae.nn import MLP
from ppl_vae.objectives import LinearWarmup
from ppl_vae.plots.axes import ACCENT, SECOND, quiet

LATENT, CONTEXT, HELD_OUT, WARMUP, SEEDS = 8, 32, 200, 400, (0, 1, 2)


def couplings(*, context_dim: int | None = None) -> list[Layer]:
    """Four affine couplings that keep one half of z, then the other."""
    return [AffineCoupling(LATENT, mask=Half(swap=i % 2 == 1), context_dim=context_dim) for i in range(4)]


def plain_vae(prior: Prior | None = None) -> tuple[VAE, AmortizedNormal]:
    """q(z | x) = N(μ(x), σ(x)²), and N(0, I) before it, unless there is another prior."""
    model = VAE(MLP(LATENT, 64, hidden=(128, 128)), latent_dim=LATENT, likelihood="bernoulli", prior=prior)
    return model, AmortizedNormal(MLP(64, 2 * LATENT, hidden=(128, 128)), latent_dim=LATENT)


def with_flow_posterior() -> tuple[VAE, AmortizedFlow]:
    """ε goes through couplings that see x, and then through the scale and shift of a normal q(z | x)."""
    model, _ = plain_vae()
    normal = ElementwiseAffine(LATENT, context_dim=CONTEXT, hidden=())
    # Layers start near the identity, a guide that does starts near the prior, and latents that nobody uses early on
    # stay unused (4 of 8 did): μ(x) and σ(x) start at the usual size of a network instead
    with torch.no_grad():
        for parameter in normal.parameters():
            parameter.mul_(10)
    # Turned round, so that z = μ(x) + σ(x) ε: the other way z = (ε - t(x)) / s(x), whose mean moves with its scale
    flow = Chain([Inverse(layer) for layer in (normal, *couplings(context_dim=CONTEXT))])
    return model, AmortizedFlow(MLP(64, CONTEXT, hidden=(128, 128)), flow, latent_dim=LATENT)


def with_flow_prior() -> tuple[VAE, AmortizedNormal]:
    """The same normal guide; what is learned is where codes are likely."""
    return plain_vae(FlowPrior(Chain(couplings())))


PAIRS = {"normal": plain_vae, "flow posterior": with_flow_posterior, "flow prior": with_flow_prior}


def fit_one(name: str, train: Tensor, *, epochs: int, seed: int) -> tuple[Fit, int]:
    """One pair from one seed, as it was in the epoch that was best on validation rows, and which one that was."""
    torch.manual_seed(seed)
    model, guide = PAIRS[name]()
    best, warmup = KeepBest(metric="val_elbo"), ELBO(beta=LinearWarmup(WARMUP))
    em = VariationalEM(model, guide, objective=warmup, lr=2e-3, clip_norm=50.0, compile=False)
    rows, held_out = train[:-HELD_OUT], train[-HELD_OUT:]
    fit = em.fit(rows, epochs=epochs, batch_size=100, validation=held_out, callbacks=[best], seed=seed)
    return fit, best.best_epoch + 1


def judge(fit: Fit, test: Tensor, *, num_samples: int) -> tuple[Tensor, Tensor, float]:
    """The ELBO and log p(x) of each test row (N,), and the share of rows whose k-hat can be trusted."""
    elbo = fit.elbo(test, num_samples=min(100, num_samples))
    evidence = fit.log_evidence(test, ImportanceWeighted(num_samples))
    return elbo.double(), evidence.value, float(evidence.reliable.double().mean())


def with_error(rows: Tensor) -> str:
    """Mean and standard error over rows."""
    return f"{float(rows.mean()):+8.3f} ± {float(rows.std()) / len(rows) ** 0.5:.3f}"


def report(log_p: dict[str, Tensor]) -> None:
    """Over seeds: mean and spread; against the normal: paired, once over rows and once over seeds."""
    print(f"\nlog p(x), mean of {len(SEEDS)} seeds     against normal, over rows    by seed")
    for name, values in log_p.items():  # (seeds, rows)
        seeds, difference = values.mean(1), values - log_p["normal"]
        by_seed = " ".join(f"{gain:+.3f}" for gain in difference.mean(1).tolist())
        spread = float(seeds.std()) / len(seeds) ** 0.5
        print(
            f"{name:<15}{float(seeds.mean()):9.3f} ± {spread:.3f}     {with_error(difference.mean(0)):<22}  {by_seed}"
        )


def draw(elbos: dict[str, Tensor], log_p: dict[str, Tensor], path: Path) -> None:
    """For each pair and seed the ELBO and the log-likelihood of the test rows."""
    from matplotlib.figure import Figure

    ax = Figure(figsize=(8, 3.2), dpi=150, layout="constrained").add_subplot()
    for place, name in enumerate(log_p):
        heights = [place + 0.15 * (seed - 1) for seed in range(len(SEEDS))]
        low, high = elbos[name].mean(1).tolist(), log_p[name].mean(1).tolist()
        ax.hlines(heights, low, high, color="#dddddd", lw=4, zorder=1)
        ax.plot(low, heights, "o", color=SECOND, label=None if place else "ELBO")
        ax.plot(high, heights, "o", color=ACCENT, label=None if place else "log p(x), importance weighted")
    ax.set_yticks(range(len(log_p)), list(log_p))
    ax.invert_yaxis()
    ax.margins(y=0.2)
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    quiet(ax, xlabel="nats a test digit, three seeds").figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    epochs, num_samples = (1, 20) if options.smoke else (200, 2000)
    data = load_digits(binary=True)
    elbos, log_p = {}, {}
    print("seed  pair             epoch     ELBO   log p(x)   k-hat < 0.7  seconds")
    for name in PAIRS:
        rows = []
        for seed in SEEDS:
            fit, epoch = fit_one(name, data.train, epochs=epochs, seed=seed)
            elbo, value, trusted = judge(fit, data.test, num_samples=num_samples)
            rows.append((elbo, value))
            print(
                f"{seed:<6}{name:<15}{epoch:7d}{float(elbo.mean()):9.3f} {float(value.mean()):10.3f}"
                f"{100 * trusted:11.0f} %{fit.seconds:9.1f}",
                flush=True,
            )
        elbos[name], log_p[name] = (torch.stack(part) for part in zip(*rows, strict=True))
    report(log_p)
    draw(elbos, log_p, options.out / "vae_flow_posterior.png")


if __name__ == "__main__":
    main()
