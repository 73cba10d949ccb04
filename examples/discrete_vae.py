"""Discrete latents on binary digits: a sum where the codes can be counted, an estimator where they cannot.

    log p(x) = L(x) + KL(q(c | x) || p(c | x)),    L(x) = sum_c q(c | x) log p(x | c) + H(q(c | x)) - log K

1. One latent of 50 classes is a mixture of 50 tables of pixels: the sum over c is made exactly, and so is log p(x).
2. The same model by every estimator of the gradient that draws c, judged by exact log p(x) of rows held out.
3. 20 latents of 10 classes: 10^20 codes, and no sum. Gumbel-softmax, RLOO and VIMCO, judged by importance weighting.

Every setting was chosen on the last 300 training rows; in 1 and 3 all 1500 are then fitted, and the test rows judge.

    python examples/discrete_vae.py            (five minutes)
    python examples/discrete_vae.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_vae import (
    ELBO,
    RLOO,
    VIMCO,
    Callback,
    Fit,
    ImportanceWeighted,
    Neural,
    ReweightedWakeSleep,
    RunningAverage,
    ScoreFunction,
    VariationalEM,
    log_evidence,
)
from ppl_vae.data import Dataset, load_digits
from ppl_vae.diagnostics import code_usage
from ppl_vae.evidence import Enumeration, Evidence
from ppl_vae.guides import EnumeratedCategorical, RelaxedCategorical, SampledCategorical
from ppl_vae.models import DiscreteVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import LinearWarmup
from ppl_vae.plots.axes import CLASSES, INK, MUTED, quiet
from ppl_vae.plots.images import images

PIXELS, CLASSES_OF_ONE, LATENTS, CLASSES_OF_MANY, HELD_OUT, BATCH = 64, 50, 20, 10, 300, 100


@dataclass(frozen=True)
class Length:
    """How long each part runs, and over how much it averages."""

    seeds: int
    mixture: int
    race: int
    every: int
    joint: int
    num_samples: int


FULL = Length(seeds=3, mixture=80, race=120, every=4, joint=100, num_samples=1000)
SMOKE = Length(seeds=1, mixture=2, race=2, every=1, joint=1, num_samples=50)


# -- one latent, 50 classes: everything is exact -----------------------------------------------------------------------


def decayed(groups: list[dict[str, Any]], *, decay: float, **options: Any) -> torch.optim.Optimizer:
    """Adam that pulls the decoder to 0, the encoder not: a table of 50 x 64 log-odds is too many for 1500 digits."""
    decays = [{**group, "weight_decay": decay if group["name"] == "theta" else 0.0} for group in groups]
    return torch.optim.AdamW(decays, fused=True, **options)


def spread_rows(x: Tensor, count: int) -> Tensor:
    """Rows that lie apart, (count, D): each drawn by its distance in pixels to the nearest one drawn (k-means++)."""
    chosen = [x[int(torch.randint(len(x), ()))]]
    distance = torch.full((len(x),), float("inf"))
    while len(chosen) < count:
        distance = torch.minimum(distance, (x - chosen[-1]).abs().sum(1))
        chosen.append(x[int(torch.multinomial(distance, 1))])
    return torch.stack(chosen)


@torch.no_grad()
def start_from_rows(decoder: MLP, encoder: MLP, x: Tensor) -> None:
    """Start each class near a digit, and the encoder at the exact posterior of that, which is linear in x.

    log p(c | x) = x . w_c - sum_d softplus(b_d + w_cd) + constant, with the decoder's bias b and its column w_c.
    """
    table, code = decoder.layers[0], encoder.layers[0]
    weight = spread_rows(x, table.in_features) - x.mean(0)
    bias = torch.logit((x.sum(0) + 1) / (len(x) + 2))
    table.weight.copy_(weight.T)
    table.bias.copy_(bias)
    code.weight.copy_(weight)
    code.bias.copy_(-softplus(bias + weight).sum(1))


def fit_mixture(x: Tensor, *, decay: float, epochs: int, seed: int) -> Fit:
    """Variational EM on the exact ELBO: no draws, no noise but that of the batches."""
    torch.manual_seed(seed)
    decoder, encoder = MLP(CLASSES_OF_ONE, PIXELS, hidden=()), MLP(PIXELS, CLASSES_OF_ONE, hidden=())
    start_from_rows(decoder, encoder, x)
    model = DiscreteVAE(decoder, num_latents=1, num_classes=CLASSES_OF_ONE, likelihood="bernoulli")
    guide = EnumeratedCategorical(encoder, num_latents=1, num_classes=CLASSES_OF_ONE)
    optimizer, slower = partial(decayed, decay=decay), partial(CosineAnnealingLR, T_max=epochs)
    em = VariationalEM(model, guide, optimizer=optimizer, lr=0.03, lr_scheduler=slower)
    return em.fit(x, epochs=epochs, batch_size=BATCH, seed=seed)


def mixture_line(fit: Fit, rows: Tensor) -> str:
    exact = fit.log_evidence(rows, Enumeration()).mean()
    gap = exact.value - float(fit.elbo(rows).mean())
    return (
        f"log p(x) {exact.value:8.3f} ± {exact.sampling_error:.2f}   gap of the ELBO {gap:.3f}   {fit.seconds:5.1f} s"
    )


def mixture(data: Dataset, length: Length) -> Fit:
    """Choose the decay on rows held out, then fit all training rows from three starts."""
    print(
        f"one latent of {CLASSES_OF_ONE} classes, enumerated; exact log p(x) in nats a digit (± the choice of digits)"
    )
    train, held_out = data.train[:-HELD_OUT], data.train[-HELD_OUT:]
    scores: dict[float, float] = {}
    for decay in (0.03, 0.1, 0.3):
        fit = fit_mixture(train, decay=decay, epochs=length.mixture, seed=0)
        scores[decay] = float(fit.log_evidence(held_out, Enumeration()).mean())
        print(f"  held out, decay {decay:<4}   {mixture_line(fit, held_out)}", flush=True)
    best = max(scores, key=lambda decay: scores[decay])
    for seed in range(length.seeds):
        fit = fit_mixture(data.train, decay=best, epochs=length.mixture, seed=seed)
        print(f"  test, seed {seed}           {mixture_line(fit, data.test)}", flush=True)
    return fit


# -- the same model by every estimator ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimator:
    """How c is drawn, and what is climbed: each made anew, for a fit of so many steps."""

    guide: Callable[[int], Callable[..., torch.nn.Module]]
    objective: Callable[[int], Any]
    color: str = INK
    dashes: str = "-"

    def fit(self, x: Tensor, size: Size, *, lr: float, epochs: int, seed: int, watch: Watch | None = None) -> Fit:
        """Fit codes of this size; the start and the batches are those of the seed, the same for every estimator."""
        torch.manual_seed(seed)
        steps = epochs * len(x) // BATCH
        model = DiscreteVAE(size.decoder(), num_latents=size.latents, num_classes=size.classes, likelihood="bernoulli")
        guide = self.guide(steps)(size.encoder(), num_latents=size.latents, num_classes=size.classes)
        slower = partial(CosineAnnealingLR, T_max=epochs)
        em = VariationalEM(model, guide, objective=self.objective(steps), lr=lr, lr_scheduler=slower)
        return em.fit(x, epochs=epochs, batch_size=BATCH, seed=seed, callbacks=[watch] if watch else [])


@dataclass(frozen=True)
class Size:
    """M, K, and the widths of the decoder's hidden layers."""

    latents: int
    classes: int
    hidden: tuple[int, ...]

    def decoder(self) -> MLP:
        """From one-hot codes to the log-odds of ink."""
        return MLP(self.latents * self.classes, PIXELS, hidden=self.hidden)

    def encoder(self) -> MLP:
        """From pixels to the logits of q(c | x)."""
        return MLP(PIXELS, self.latents * self.classes, hidden=(128,))


class Watch(Callback):
    """Exact log p(x) of rows held out, every few epochs."""

    def __init__(self, rows: Tensor, every: int) -> None:
        self.rows, self.every = rows, every
        self.epochs: list[int] = []
        self.log_p: list[float] = []

    def on_epoch(self, run: Any, row: dict[str, Any]) -> None:
        """Look, if it is time."""
        if (row["epoch"] + 1) % self.every == 0:
            self.epochs.append(row["epoch"] + 1)
            self.log_p.append(float(log_evidence(run.pair, self.rows, Enumeration()).mean()))


def drawn(steps: int) -> Callable[..., torch.nn.Module]:
    return SampledCategorical


def summed(steps: int) -> Callable[..., torch.nn.Module]:
    return EnumeratedCategorical


def relaxed(steps: int) -> Callable[..., torch.nn.Module]:
    """The temperature falls from 1 to 0.5 over the first half."""
    return partial(RelaxedCategorical, temperature=LinearWarmup(max(1, steps // 2), start=1.0, end=0.5))


def nvil(steps: int) -> ScoreFunction:
    return ScoreFunction((RunningAverage(), Neural(MLP(PIXELS, 1, hidden=(64,)))))


ESTIMATORS = {
    "exact: ELBO, enumerated": Estimator(summed, lambda steps: ELBO(), INK),
    "Gumbel-softmax": Estimator(relaxed, lambda steps: ELBO(), CLASSES[2]),
    "RLOO(4)": Estimator(drawn, lambda steps: RLOO(4), CLASSES[0]),
    "VIMCO(4)": Estimator(drawn, lambda steps: VIMCO(4), CLASSES[1]),
    "reweighted wake-sleep (4)": Estimator(drawn, lambda steps: ReweightedWakeSleep(4), CLASSES[5]),
    "score function, neural baseline": Estimator(drawn, nvil, CLASSES[3]),
    "score function, running average": Estimator(drawn, lambda steps: ScoreFunction(RunningAverage()), CLASSES[4]),
    "score function": Estimator(drawn, lambda steps: ScoreFunction(), CLASSES[4], "--"),
}


def race(data: Dataset, length: Length) -> dict[str, Watch]:
    """Fit the model of the first part by every estimator, from one random start and not from digits."""
    print(f"the same model from a random start, one seed, {length.race} epochs; exact log p(x) of two sets of rows")
    print("                                   trained  held out      ELBO  KL(q || p(c|x))  dead classes  seconds")
    train, held_out = data.train[:-HELD_OUT], data.train[-HELD_OUT:]
    watches = {}
    for name, estimator in ESTIMATORS.items():
        watch = watches[name] = Watch(held_out, length.every)
        fit = estimator.fit(train, Size(1, CLASSES_OF_ONE, ()), lr=0.01, epochs=length.race, seed=0, watch=watch)
        seen, value = (float(fit.log_evidence(rows, Enumeration()).mean()) for rows in (train, held_out))
        elbo = float(fit.elbo(held_out).mean())  # exact, whatever the guide does in training
        numbers = f"{seen:9.3f} {value:9.3f} {elbo:9.3f} {value - elbo:16.3f}"
        print(f"  {name:<33}{numbers} {fit.history.dead_codes.iloc[-1]:13d} {fit.seconds:8.1f}", flush=True)
    return watches


# -- 20 latents of 10 classes: no sum ----------------------------------------------------------------------------------


JOINT = Size(LATENTS, CLASSES_OF_MANY, (128,))

OF_MANY = {
    # the warm-up of the KL, which the others do not have, is worth 0.2 nats on rows held out
    "Gumbel-softmax": Estimator(relaxed, lambda steps: ELBO(beta=LinearWarmup(max(1, steps // 4)))),
    "RLOO(4)": ESTIMATORS["RLOO(4)"],
    "VIMCO(4)": ESTIMATORS["VIMCO(4)"],
}


def learning_rate(estimator: Estimator, data: Dataset, length: Length) -> float:
    """The better of two learning rates on rows held out; they are judged as the test rows will be."""
    train, held_out = data.train[:-HELD_OUT], data.train[-HELD_OUT:]
    scores: dict[float, float] = {}
    for lr in (0.01, 0.03):
        fit = estimator.fit(train, JOINT, lr=lr, epochs=length.joint, seed=0)
        evidence = fit.log_evidence(held_out, ImportanceWeighted(length.num_samples))
        scores[lr] = evidence.mean().value
        print(f"    held out, lr {lr:<5} {joint_line(fit, evidence, held_out)}", flush=True)
    return max(scores, key=lambda lr: scores[lr])


def joint(data: Dataset, length: Length) -> dict[str, list[Evidence]]:
    """By each estimator: a learning rate from rows held out, then a fit of all training rows from each seed."""
    print(f"{LATENTS} latents of {CLASSES_OF_MANY} classes, {length.joint} epochs")
    try:
        EnumeratedCategorical(JOINT.encoder(), num_latents=LATENTS, num_classes=CLASSES_OF_MANY)
    except ValueError as error:
        print(f"  refused: {error}")
    print(
        f"                        log p(x), K = {length.num_samples:<5} k-hat < 0.7       ELBO  KL(q || p(c))   seconds"
    )
    found: dict[str, list[Evidence]] = {}
    for name, estimator in OF_MANY.items():
        print(f"  {name}")
        lr, found[name] = learning_rate(estimator, data, length), []
        for seed in range(length.seeds):
            fit = estimator.fit(data.train, JOINT, lr=lr, epochs=length.joint, seed=seed)
            evidence = fit.log_evidence(data.test, ImportanceWeighted(length.num_samples))
            found[name].append(evidence)
            print(f"    test, seed {seed}       {joint_line(fit, evidence, data.test)}", flush=True)
    return found


def joint_line(fit: Fit, evidence: Evidence, rows: Tensor) -> str:
    mean, trusted = evidence.mean(), 100 * float(evidence.reliable.double().mean())
    elbo, kl = float(fit.elbo(rows).mean()), float(code_usage(fit, rows).kl_from_uniform.sum())
    error = mean.error_in_words(".3f")
    numbers = f"{mean.value:8.3f} ± {error} {trusted:12.0f} % {elbo:11.3f} {kl:14.2f}"
    return f"{numbers} {fit.seconds:9.1f}"


# -- the picture -------------------------------------------------------------------------------------------------------


def draw(fit: Fit, watches: dict[str, Watch], found: dict[str, list[Evidence]], path: Path) -> None:
    """What the 50 classes look like, every way's curve, and the log-likelihoods of the model without a sum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), dpi=150, layout="constrained")
    axes = figure.subplot_mosaic([["race", "table"], ["race", "joint"]], width_ratios=[1.35, 1], height_ratios=[1, 1])
    for name, watch in watches.items():
        estimator, width = ESTIMATORS[name], 2.6 if name.startswith("exact") else 1.5
        axes["race"].plot(watch.epochs, watch.log_p, estimator.dashes, color=estimator.color, lw=width, label=name)
    axes["race"].legend(frameon=False, fontsize=9, loc="lower right")
    title(axes["race"], "one latent of 50 classes: every estimator")
    quiet(axes["race"], xlabel="epochs", ylabel="exact log p(x) of held out digits (nats)")
    codes = torch.arange(CLASSES_OF_ONE).unsqueeze(-1)
    images(fit.decode(codes), columns=10, limits=(0.0, 1.0), ax=axes["table"])
    title(axes["table"], "the 50 classes, enumerated and decayed")
    draw_joint(axes["joint"], found)
    figure.savefig(path)
    print(f"drawn: {path}")


def draw_joint(ax: Any, found: dict[str, list[Evidence]]) -> None:
    for height, (name, each) in enumerate(found.items()):
        ax.axhline(height, color=MUTED, lw=0.5, zorder=0)
        for evidence in each:
            mean = evidence.mean()
            ax.errorbar(mean.value, height, xerr=2 * mean.standard_error, fmt="o", ms=5, color=ESTIMATORS[name].color)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.margins(x=0.1, y=0.3)
    title(ax, "20 latents of 10 classes: test digits, each seed ± 2 SE")
    quiet(ax, xlabel="log p(x), importance weighted (nats)")


def title(ax: Any, text: str) -> None:
    ax.set_title(text, fontsize=10, color=INK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    length, data, started = SMOKE if options.smoke else FULL, load_digits(binary=True), time.perf_counter()
    if options.smoke:
        data = replace(
            data, train=data.train[: HELD_OUT + 200], test=data.test[:50], train_labels=None, test_labels=None
        )
    fit = mixture(data, length)
    watches = race(data, length)
    found = joint(data, length)
    draw(fit, watches, found, options.out / "discrete_vae.png")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
