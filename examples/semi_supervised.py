"""Digits with 100 labels: what a generative model makes of the rows that have none, by four ways to learn from them.

    labeled rows      L(x, y) = E_q(z|x,y)[ log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y) ]
    unlabeled rows    U(x) = sum_y q(y | x) L(x, y) + H(q(y | x)) <= log p(x)

The sum over y is taken by draws (a score function), or exactly; either way the bound of a labeled row teaches the
classifier q(y | x) nothing, and the auxiliary term, weight * log q(y | x), does. Beside them the same classifier on the
100 labels alone. Each is fitted on 5 random choices of the labeled rows (10 a class). The intervals are the mean ± 2
standard errors over these, always on the same test rows: they say what the choice of labels does, not that of the test.

The settings were chosen on the first two splits by training rows that no fit sees (--validate); the test rows had no
part in it.

    python examples/semi_supervised.py               (three minutes)
    python examples/semi_supervised.py --validate    (judged by 200 training rows, held out, instead of the test rows)
    python examples/semi_supervised.py --smoke       (seconds)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppl_vae import ELBO, RLOO, Fit, ImportanceWeighted, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.guides import SemiSupervisedGuide
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.nn import MLP
from ppl_vae.plots import images
from ppl_vae.plots.axes import ACCENT, INK, MUTED, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES, LATENT, LABELS_A_CLASS, HELD_OUT = 10, 8, 10, 200
EPOCHS, CLASSIFIER_STEPS, AUXILIARY = 80, 200, 30.0


@dataclass(frozen=True)
class Task:
    """Rows to fit, and rows to judge by, with their labels."""

    x: Tensor
    labels: Tensor  # of which a split keeps 100
    judge_x: Tensor
    judge_y: Tensor
    judged_by: str


def the_task(*, validate: bool) -> Task:
    """Fit the training rows and judge by the test rows; or hold out the last training rows and leave the test alone."""
    data = load_digits(binary=True)
    if not validate:
        return Task(data.train, data.train_labels, data.test, data.test_labels, f"{len(data.test)} test digits")
    x, y = data.train, data.train_labels
    judged_by = f"{HELD_OUT} held-out training digits"
    return Task(x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:], judged_by)


def some_labels(labels: Tensor, split: int) -> Tensor:
    """Keep 10 labels a class, at random; -1 for the others."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(split))
    kept = torch.cat([order[labels[order] == k][:LABELS_A_CLASS] for k in range(CLASSES)])
    return torch.full_like(labels, -1).scatter(0, kept, labels[kept])


def semi_supervised(x: Tensor, y: Tensor, seed: int, epochs: int, *, objective: Any, **guide: Any) -> Fit:
    """Fit the M2 model; every way starts from the same networks and sees the same batches."""
    torch.manual_seed(seed)
    sizes = {"num_classes": CLASSES, "latent_dim": LATENT}
    model = SemiSupervisedVAE(MLP(CLASSES + LATENT, 64), likelihood="bernoulli", **sizes)
    q = SemiSupervisedGuide(MLP(64, CLASSES), MLP(64 + CLASSES, 2 * LATENT), **sizes, **guide)
    em = VariationalEM(model, q, objective=objective)
    return em.fit((x, y), epochs=epochs, batch_size=100, seed=seed, progress=False)


def classifier_alone(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """The classifier on the labeled rows, by its cross-entropy and nothing else."""
    torch.manual_seed(seed)
    classifier, labeled = MLP(64, CLASSES), y >= 0
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(CLASSIFIER_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(x[labeled]), y[labeled]).backward()
        optimizer.step()
    return classifier


WAYS: dict[str, Callable[..., Fit]] = {
    "y sampled": partial(semi_supervised, objective=RLOO(4), enumerate=False),
    "y enumerated": partial(semi_supervised, objective=ELBO()),
    "y enumerated + auxiliary": partial(semi_supervised, objective=ELBO(), auxiliary=AUXILIARY),
}
ALONE, SAMPLED, _, AUXILIARY_TOO = "classifier alone", *WAYS


def accuracy(classifier: nn.Module, task: Task) -> float:
    """The share of the judging rows whose most probable class is right."""
    with torch.no_grad():
        return float((classifier(task.judge_x).argmax(-1) == task.judge_y).double().mean())


def one_split(task: Task, split: int, epochs: int) -> tuple[dict[str, float], dict[str, Fit]]:
    """The accuracy of every way with one choice of labels, and the fits."""
    y = some_labels(task.labels, split)
    found = {ALONE: accuracy(classifier_alone(task.x, y, split), task)}
    print(f"split {split}  {ALONE:<26}accuracy {found[ALONE]:.3f}")
    fits = {}
    for name, way in WAYS.items():
        fit = fits[name] = way(task.x, y, split, epochs)
        found[name] = accuracy(fit.guide.classifier, task)
        end = f"training ELBO {fit.history['elbo'].iloc[-1]:8.3f}   {fit.seconds:5.1f} s"
        print(f"split {split}  {name:<26}accuracy {found[name]:.3f}   {end}", flush=True)
    return found, fits


def interval(values: Tensor) -> tuple[float, float]:
    """The mean, and two standard errors of it."""
    return float(values.mean()), 2 * float(values.std()) / len(values) ** 0.5


def table(found: dict[str, Tensor]) -> None:
    """Accuracy of each way, and its difference to y sampled, split by split."""
    print(f"\n{'':<26}accuracy ± 2 SE  against y sampled   of each split")
    for name, each in found.items():
        mean, error = interval(each)
        paired, paired_error = interval(each - found[SAMPLED])
        splits = " ".join(f"{value:.3f}" for value in each.tolist())
        print(f"{name:<26}{mean:8.3f} ± {error:.3f}    {paired:+.3f} ± {paired_error:.3f}   {splits}")


def judge(fit: Fit, task: Task, num_samples: int) -> None:
    """How good the model is of x alone: y and z are both latent."""
    evidence = fit.log_evidence(task.judge_x, ImportanceWeighted(num_samples))
    mean, trusted = evidence.mean(), 100 * float(evidence.reliable.double().mean())
    print(f"\n{AUXILIARY_TOO}, split 0, {task.judged_by} without their labels, nats a digit:")
    print(f"ELBO                {float(fit.elbo(task.judge_x).mean()):9.3f}")
    print(
        f"log p(x), K = {num_samples:<6}{mean.value:9.3f} ± {mean.error_in_words('.3f')}; "
        f"{trusted:.0f} % have k-hat < 0.7"
    )


def draw_accuracies(found: dict[str, Tensor], ax: Axes, judged_by: str) -> None:
    """Every split as a point, the mean and two standard errors as a bar."""
    for height, each in enumerate(found.values()):
        mean, error = interval(each)
        ax.barh(height, mean, height=0.55, color=ACCENT, alpha=0.2)
        ax.errorbar(mean, height - 0.12, xerr=error, fmt="|", color=INK, ms=10, capsize=4)
        ax.plot(each, [height + 0.12] * len(each), "o", color=ACCENT, ms=5, alpha=0.7, lw=0)
    ax.set_yticks(range(len(found)), found)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_axisbelow(True)
    ax.grid(axis="x", color=MUTED, alpha=0.3)
    quiet(ax, xlabel=f"accuracy on {judged_by}: splits, mean ± 2 SE")


def draw_classes(fit: Fit, ax: Axes, *, styles: int = 6) -> None:
    """Digits of every class (columns) in the same styles (rows)."""
    z = torch.randn(styles, LATENT, generator=torch.Generator().manual_seed(0)).repeat_interleave(CLASSES, 0)
    y = torch.arange(CLASSES).repeat(styles)
    images(fit.simulate(len(z), mean=True, latents={"y": y, "z": z})["x"], columns=CLASSES, ax=ax)
    ax.set_title("E[x | y, z]: a class a column, a style z a row", fontsize=10, color=INK)


def draw(found: dict[str, Tensor], fit: Fit, path: Path, judged_by: str) -> None:
    """What the ways reach, and what the best of them makes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), dpi=150, layout="constrained")
    accuracies, digits = figure.subplots(1, 2, width_ratios=(1.15, 1))
    draw_accuracies(found, accuracies, judged_by)
    draw_classes(fit, digits)
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--validate", action="store_true", help="judge by training rows that are held out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    splits, epochs, num_samples = (2, 1, 20) if options.smoke else (5, EPOCHS, 5000)
    task = the_task(validate=options.validate)
    results = [one_split(task, split, epochs) for split in range(splits)]
    found = {name: torch.tensor([accuracies[name] for accuracies, _ in results]) for name in (ALONE, *WAYS)}
    table(found)
    fit = results[0][1][AUXILIARY_TOO]
    judge(fit, task, num_samples)
    draw(found, fit, options.out / "semi_supervised.png", task.judged_by)


if __name__ == "__main__":
    main()
