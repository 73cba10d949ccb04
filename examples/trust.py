"""One regression on raw columns, three ways: the loop of the tutorials, a fit that stops by itself, and NUTS as judge.

    intercept ~ N(0, 1000^2),    slope_d ~ N(0, 100^2),    sigma ~ HalfCauchy(10),
    progression_n ~ N(intercept + x_n . slope, sigma^2)

442 patients of scikit-learn's diabetes data in the units in which they were measured: years, mmHg, mg/dl. Pyro's
tutorials fit such a model by Adam with a rate and a number of steps; both have a default that does not know the units.
``ppl_vae.fit(model, guide, data)`` without steps has neither, and its certificate says whether it is done. Given sigma
the evidence is a normal density, so log Z is had by quadrature, and no method is judged by its own estimate.

    python examples/trust.py            (a minute or two, nearly all NUTS)
    python examples/trust.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from sklearn.datasets import load_diabetes
from torch import Tensor

import ppl_vae
from ppl_vae.plots.axes import ACCENT, INK, SECOND, quiet
from ppl_vae.training import Callback

WIDE, SLOPE, SPREAD = 1000.0, 100.0, 10.0
COLUMNS = ("age", "sex", "BMI", "blood pressure", "cholesterol", "LDL", "HDL", "chol. / HDL", "log triglyc.", "glucose")
JUDGE, ADAM, OURS = "NUTS", "Adam, 2000 steps", "ppl_vae.fit"
INTERVAL = (0.05, 0.95)


def model(x, y):
    intercept = pyro.sample("intercept", dist.Normal(0.0, WIDE))
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), SLOPE).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(SPREAD))
    with pyro.plate("patients", len(y)):
        pyro.sample("progression", dist.Normal(intercept + (slope * x).sum(-1), sigma), obs=y)


@dataclass
class Answer:
    """What one way found.

    Attributes:
        slopes: (S, 10) draws.
        seconds: of the processor, so that what else the machine does has no part in them.
        says: what it says of itself.
        elbo: nats, if it has one.
        path: (seconds, ELBO in nats) on the way.
    """

    slopes: Tensor
    seconds: float
    says: str
    elbo: float | None = None
    path: tuple[tuple[float, float], ...] = ()


class Clock(Callback):
    """The ELBO of every step, with the time."""

    def __init__(self, num_data: int) -> None:
        self.num_data, self.started = num_data, time.process_time()
        self.seen: list[tuple[float, float]] = []

    def on_epoch(self, run, row) -> None:
        """Called by the run after every step."""
        self.seen.append((time.process_time() - self.started, row["elbo"] * self.num_data))


def log_evidence(x: Tensor, y: Tensor, points: int = 20_001) -> float:
    """Log Z: y ~ N(0, A + sigma^2 I), A of the priors, in the eigenvectors of A, and a sum over log sigma."""
    design = torch.cat([WIDE * torch.ones_like(y).unsqueeze(1), SLOPE * x], 1)
    values, vectors = torch.linalg.eigh(design @ design.T)
    squares = (vectors.T @ y).square()
    log_sigma = torch.linspace(math.log(10), math.log(400), points, dtype=y.dtype)
    sigma = log_sigma.exp()
    variance = values.clamp_min(0) + sigma.square().unsqueeze(1)
    likelihood = -0.5 * ((2 * math.pi * variance).log() + squares / variance).sum(1)
    prior = dist.HalfCauchy(y.new_tensor(SPREAD)).log_prob(sigma) + log_sigma
    return float((likelihood + prior).logsumexp(0) + (log_sigma[1] - log_sigma[0]).log())


def by_adam(data, *, steps: int, draws: int) -> Answer:
    """A rate of 0.01, a draw a step: what the tutorials do."""
    clock = Clock(len(data[0]))
    fit = ppl_vae.fit(
        model, AutoMultivariateNormal(model), data, steps=steps, lr=0.01, callbacks=[clock], progress=False
    )
    seconds = time.process_time() - clock.started
    return answer(fit, data, draws, seconds, says=f"{fit.ended} after {fit.steps} steps", path=tuple(clock.seen))


def by_fit(data, *, draws: int) -> Answer:
    """No rate and no number of steps."""
    started = time.process_time()
    fit = ppl_vae.fit(model, AutoMultivariateNormal(model), data)
    seconds = time.process_time() - started
    print(fit.certificate)
    return answer(fit, data, draws, seconds, says=fit.certificate.sentence)


def answer(
    fit: ppl_vae.Fit, data, draws: int, seconds: float, *, says: str, path: tuple[tuple[float, float], ...] = ()
) -> Answer:
    """The draws of a guide, and its ELBO from them."""
    drawn = fit.draw(data, draws, seed=1)
    return Answer(drawn.values["slope"].double(), seconds, says, float(drawn.log_weight.mean()), path)


def by_nuts(data, *, draws: int, warmup: int, depth: int) -> Answer:
    """Pyro's own, from its own start, in double precision, with a mass matrix that it learns."""
    started, default = time.process_time(), torch.get_default_dtype()
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    kernel = NUTS(model, full_mass=True, max_tree_depth=depth, jit_compile=depth > 5, ignore_jit_warnings=True)
    chain = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    chain.run(*data)
    torch.set_default_dtype(default)
    slopes = chain.get_samples(group_by_chain=True)["slope"]
    ess, r_hat = float(effective_sample_size(slopes).min()), float(split_gelman_rubin(slopes).max())
    says = f"R-hat at most {r_hat:.3f}, effective draws at least {ess:.0f}"
    return Answer(slopes[0], time.process_time() - started, says)


def report(answers: dict[str, Answer], log_z: float) -> None:
    """A row a column of the data: mean and standard deviation of its slope, three ways."""
    print(f"\n{'slope':<16}" + "".join(f"{name:>24}" for name in answers))
    for i, column in enumerate(COLUMNS):
        cells = (f"{float(a.slopes[:, i].mean()):.3f} ± {float(a.slopes[:, i].std()):.3f}" for a in answers.values())
        print(f"{column:<16}" + "".join(f"{cell:>24}" for cell in cells))
    judge = answers[JUDGE].slopes
    mean, sd = judge.mean(0), judge.std(0)
    print(f"\nlog Z {log_z:.4f} nats, by quadrature; errors of means in posterior sds, by {JUDGE}")
    print(f"{'':<18}{'seconds':>8}{'ELBO':>12}{'log Z - ELBO':>14}{'worst mean':>12}{'sds, of the posterior':>23}")
    for name, a in answers.items():
        elbo = f"{a.elbo:12.3f}{log_z - a.elbo:14.3f}" if a.elbo is not None else f"{'-':>12}{'-':>14}"
        off, ratio = (a.slopes.mean(0) - mean).abs() / sd, a.slopes.std(0) / sd
        spread = f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}"
        print(f"{name:<18}{a.seconds:8.1f}{elbo}{float(off.max()):12.2f}{spread:>23}")
    for name, a in answers.items():
        print(f"{name}: {a.says}")


STYLES = {
    JUDGE: {"color": "#BBBBBB", "lw": 11, "marker": "|", "mec": INK, "ms": 11, "zorder": 1},
    OURS: {"color": ACCENT, "lw": 2.5, "marker": "o", "mec": ACCENT, "ms": 7, "zorder": 3},
    ADAM: {"color": SECOND, "lw": 2.5, "marker": "D", "mec": SECOND, "mfc": "white", "ms": 6, "zorder": 2},
}


def draw(answers: dict[str, Answer], scale: Tensor, log_z: float, path: Path) -> None:
    """Left the slopes, right the way to them, below what the certificate says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.3, 7.2), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 0.12], width_ratios=[1.1, 1])
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    draw_slopes(left, answers, scale)
    draw_path(right, answers, log_z)
    below = figure.add_subplot(grid[1, :])
    below.axis("off")
    words = textwrap.fill(f"The certificate of {OURS}(model, guide, data): “{answers[OURS].says}”", 118)
    below.text(0.5, 0.5, words, ha="center", va="center", fontsize=14, color=INK)
    figure.savefig(path)
    print(f"drawn: {path}")


def draw_slopes(ax, answers: dict[str, Answer], scale: Tensor) -> None:
    """90 % intervals of each slope times the standard deviation of its column, for one unit on the axis.

    The axis shows what the judge holds for possible; what lies beyond is an arrow with its number.
    """
    effects = {name: answer.slopes * scale for name, answer in answers.items()}
    low, high = float(effects[JUDGE].quantile(0.001)), float(effects[JUDGE].quantile(0.999))
    left, right = low - 0.5 * (high - low), high + 0.5 * (high - low)
    for name, shift in ((JUDGE, 0.0), (OURS, 0.0), (ADAM, 0.36)):
        style = STYLES[name]
        line = {"color": style["color"], "lw": style["lw"], "solid_capstyle": "butt", "zorder": style["zorder"]}
        marks = {key: value for key, value in style.items() if key != "lw"}
        ends = effects[name].quantile(torch.tensor(INTERVAL, dtype=scale.dtype), 0).T.tolist()
        for i, (center, interval) in enumerate(zip(effects[name].mean(0).tolist(), ends, strict=True)):
            height = i + shift
            if left < center < right:
                ax.plot(interval, [height] * 2, **line)
                ax.plot(center, height, ls="", **marks)
                continue
            edge, align, side = (left, "left", 1) if center < left else (right, "right", -1)
            words = f"{center:,.0f}".replace("-", "−")
            ax.annotate(
                words, (edge, height), (side * 24, 0), textcoords="offset points", ha=align, va="center", fontsize=12,
                color=style["color"], arrowprops={"arrowstyle": "-|>", "color": style["color"], "lw": 2},
            )  # fmt: skip
        ax.plot([], [], label=name, **{**marks, "lw": style["lw"]})
    ax.axvline(0, color=INK, lw=0.8, zorder=0)
    ax.set_xlim(left, right)
    ax.set_yticks(range(len(COLUMNS)), COLUMNS)
    ax.set_ylim(len(COLUMNS) - 0.4, -0.6)
    quiet(ax, xlabel="progression, in points per standard deviation of the column")
    ax.set_title("Posterior of the slopes, 90 % intervals", fontsize=15, color=INK, pad=34)
    enlarge(ax)
    ax.legend(frameon=False, fontsize=13, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, handlelength=1.6)


def draw_path(ax, answers: dict[str, Answer], log_z: float) -> None:
    """The ELBO less log Z against time; NUTS has no ELBO, and is a line at its end."""
    adam, ours, judge = answers[ADAM], answers[OURS], answers[JUDGE]
    seconds, elbo = torch.tensor(adam.path, dtype=torch.float64).T
    ax.axhline(0, color=INK, lw=1.5, ls="--")
    ax.plot(seconds, elbo - log_z, color=SECOND, lw=1)
    ax.plot(adam.seconds, adam.elbo - log_z, color=SECOND, marker="D", mfc="white", ms=9, mew=2)
    ax.plot(ours.seconds, ours.elbo - log_z, color=ACCENT, marker="o", ms=13, zorder=4)
    ax.axvline(judge.seconds, color="#BBBBBB", lw=6, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(right=1.6 * judge.seconds)
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set_ylim(3 * float((elbo - log_z).min()), 3)
    ticks = [0, -1, -100, -10_000, -1_000_000]
    ax.set_yticks(ticks, [f"{tick:,}".replace("-", "−") for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    label = {"fontsize": 13, "color": INK, "textcoords": "offset points"}
    ax.annotate(f"{OURS}: {ours.seconds:.1f} s,\n{max(log_z - ours.elbo, 0.0):.2f} nats below log Z",
                (ours.seconds, ours.elbo - log_z), (4, -48), **label)  # fmt: skip
    ax.annotate(f"{ADAM}: {adam.seconds:.0f} s,\n{log_z - adam.elbo:,.0f} nats below log Z",
                (adam.seconds, adam.elbo - log_z), (6, 16), ha="right", **label)  # fmt: skip
    ax.annotate(f"{JUDGE}: {judge.seconds:.0f} s", (judge.seconds, -1000), (-8, 0), rotation=90, ha="right",
                va="center", **label)  # fmt: skip
    ax.annotate("log Z, by quadrature", (0.02, 0), (0, 8), xycoords=ax.get_yaxis_transform(), **label)
    quiet(ax, xlabel="CPU seconds (log scale)", ylabel="ELBO − log Z (nats)")
    ax.set_title("How far the fit has come", fontsize=15, color=INK, pad=34)
    enlarge(ax)


def enlarge(ax) -> None:
    """Letters that are read from the last row."""
    ax.tick_params(labelsize=13)
    ax.xaxis.label.set_size(14)
    ax.yaxis.label.set_size(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    raw = load_diabetes(scaled=False)
    data = torch.as_tensor(raw.data), torch.as_tensor(raw.target)
    log_z = log_evidence(*data)
    if options.smoke:
        answers = {ADAM: by_adam(data, steps=30, draws=50), OURS: by_fit(data, draws=50)}
        answers[JUDGE] = by_nuts(data, draws=20, warmup=5, depth=2)
    else:
        answers = {ADAM: by_adam(data, steps=2000, draws=20_000), OURS: by_fit(data, draws=20_000)}
        answers[JUDGE] = by_nuts(data, draws=1000, warmup=500, depth=10)
    report(answers, log_z)
    draw(answers, data[0].std(0), log_z, options.out / "trust.png")


if __name__ == "__main__":
    main()
