"""What a run says at its end: a table, a verdict, figures and a model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_vae.data import Dataset
    from ppl_vae.diagnostics import Verdict
    from ppl_vae.evidence import Decomposition
    from ppl_vae.result import Fit

MOST_SAMPLES = 5000  # importance samples a datum
BUDGET = 1_500_000  # draws of the guide in all, for each part of the data
MOST_ROWS = 5000  # rows of a part that are judged
PLOTTED_ROWS = 2000
POSTERIOR_ROWS = 300  # rows in posterior.nc

NOUNS = {"digits": "digits", "mnist": "digits", "iris": "flowers", "wine": "wines"}


@dataclass(frozen=True, eq=False)
class Report:
    """The numbers of one run, nats per datum.

    Args:
        parts: the pieces of the evidence by part of the data ("train", "test").
        verdict: what they say in plain words, of the test rows where there are any.
        unit: what a unit of the data is, since densities depend on it.
    """

    parts: dict[str, Decomposition]
    verdict: Verdict
    unit: str = ""

    def rows(self) -> list[tuple[str, list[str]]]:
        """The table: a name, and the value for each part."""
        pieces = [("ELBO", "elbo"), ("reconstruction", "reconstruction"), ("KL(q(z|x) || p(z))", "kl")]
        table = [(name, [f"{part.mean()[key]:.3f}" for part in self.parts.values()]) for name, key in pieces]
        evidence = [part.evidence.mean() for part in self.parts.values()]
        table.append(("log-likelihood (importance-weighted)", [f"{mean.value:.3f}" for mean in evidence]))
        table.append(("  its standard error", [f"{mean.standard_error:.3f}" for mean in evidence]))
        return table

    def header(self) -> list[str]:
        """The names of the columns: which rows, how many, with how many importance samples."""
        return [f"{name} ({_rows_of(part)})" for name, part in self.parts.items()]

    def numbers(self) -> dict[str, dict[str, float]]:
        """The same as plain data."""
        return {name: _numbers(part) for name, part in self.parts.items()}

    @property
    def caption(self) -> str:
        """What the numbers are: of one datum, or of all rows where latents tie them together."""
        joint = any(part.elbo.dim() == 0 for part in self.parts.values())
        return "nats, all rows together" if joint else "nats per datum"

    def __str__(self) -> str:
        header, rows = self.header(), self.rows()
        width = max(len(self.caption), *(len(name) for name, _ in rows))
        sizes = [max(12, len(title)) for title in header]
        lines = [(self.caption, header), *rows]
        return "\n".join(
            name.ljust(width) + "".join("  " + value.rjust(size) for value, size in zip(values, sizes, strict=True))
            for name, values in lines
        )

    def markdown(self) -> str:
        """The table in Markdown."""
        header = [self.caption, *self.header()]
        lines = [header, ["---", *["---:"] * (len(header) - 1)]]
        lines += [[name.strip().replace("|", r"\|"), *values] for name, values in self.rows()]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def judge(fit: Fit, dataset: Dataset, *, seed: int = 0) -> Report:
    """Take the evidence of train and test rows apart, and put it in words.

    Importance samples a datum: 5000, fewer where the rows are many. With latents that all data share, or with
    parameters for each row, only the train rows are judged: the others were never seen by the guide.

    Args:
        fit: the fitted pair.
        dataset: its data.
        seed: of the draws.
    """
    from ppl_vae.diagnostics import Verdict as VerdictOf
    from ppl_vae.diagnostics import active_units
    from ppl_vae.evidence import decomposition

    parts = {"train": dataset.train[:MOST_ROWS]}
    if dataset.test is not None and not fit.has_global_latents and not fit.takes("index"):
        parts["test"] = dataset.test[:MOST_ROWS]
    pieces = {
        name: decomposition(fit, rows, num_samples=max(100, min(MOST_SAMPLES, BUDGET // len(rows))), seed=seed)
        for name, rows in parts.items()
    }
    last = list(parts)[-1]
    units = active_units(fit, parts[last], seed=seed) if len(parts[last]) > 1 else None
    noun = f"{last} {NOUNS.get(dataset.name, 'rows')}"
    return Report(pieces, VerdictOf.of(pieces[last], units, noun=noun), dataset.unit)


def _rows_of(part: Decomposition) -> str:
    samples = part.evidence.estimator.partition("(")[2].rstrip(")")
    count = f"{len(part.elbo)} rows" if part.elbo.dim() else "all rows at once"
    return f"{count}, K = {samples}"


def _numbers(part: Decomposition) -> dict[str, float]:
    evidence = part.evidence.mean()
    names = ("elbo", "reconstruction", "kl")
    return {
        **{name: part.mean()[name] for name in names},
        "log_likelihood": evidence.value,
        "log_likelihood_standard_error": evidence.standard_error,
    }


def posterior_rows(fit: Fit, dataset: Dataset) -> Any:
    """The rows whose posterior is kept: the first test rows, or all train rows where the latents are shared
    by all.
    """
    if fit.has_global_latents:
        return dataset.train
    rows = dataset.train if dataset.test is None or fit.takes("index") else dataset.test
    return rows[:POSTERIOR_ROWS]


# figures


def figures(fit: Fit, dataset: Dataset) -> dict[str, Callable[[Path], None]]:
    """The figures that suit the data, by name in the run folder: functions that write a file to a path."""
    panels = _panels(fit, dataset)
    single = {f"plots/{name}.png": partial(_save, draw) for name, draw in panels.items()}
    return {"plots/overview.png": partial(_save_overview, panels), **single}


def _panels(fit: Fit, dataset: Dataset) -> dict[str, Callable[[Axes | None], Axes]]:
    """Functions that draw into axes, by name, in reading order."""
    shown = dataset.train if dataset.test is None or fit.takes("index") else dataset.test
    labels = dataset.train_labels if shown is dataset.train else dataset.test_labels
    panels: dict[str, Callable[[Axes | None], Axes]] = {}
    if len(fit.history):
        panels["elbo"] = lambda ax: _titled(fit.plot.history(ax=ax), "ELBO")
    if _makes_images(fit, dataset):
        shape = dataset.image_shape
        panels["samples"] = lambda ax: _titled(fit.plot.samples(64, ax=ax, shape=shape), "samples from the prior")
        panels["reconstructions"] = lambda ax: _titled(
            fit.plot.reconstructions(shown[:32], columns=8, ax=ax, shape=shape),
            "originals and reconstructions",
        )
    if _has_a_code(fit):
        codes, colors = shown[:PLOTTED_ROWS], None if labels is None else labels[:PLOTTED_ROWS]
        title = "latent space" if labels is None else "latent space by class"
        panels["latent"] = lambda ax: _titled(fit.plot.latent(codes, color=colors, ax=ax), title)
        panels["kl"] = lambda ax: _titled(fit.plot.kl(codes, ax=ax), "KL of each latent dimension")
    return panels


def _makes_images(fit: Fit, dataset: Dataset) -> bool:
    return dataset.image_shape is not None and len(fit.observed) == 1 and not fit.has_global_latents


def _has_a_code(fit: Fit) -> bool:
    """One continuous latent vector a datum."""
    sites = list(fit.latents.values())
    return len(sites) == 1 and sites[0].is_local and not sites[0].is_discrete and len(sites[0].event_shape) == 1


def _titled(ax: Axes, title: str) -> Axes:
    ax.set_title(title, fontsize=10)
    return ax


def _save(draw: Callable[[Axes | None], Axes], path: Path) -> None:
    draw(None).figure.savefig(path)  # type: ignore[union-attr]


def _save_overview(panels: dict[str, Callable[[Axes | None], Axes]], path: Path) -> None:
    """All but the KL in one picture."""
    from matplotlib.figure import Figure

    shown = [draw for name, draw in panels.items() if name != "kl"]
    columns = 2 if len(shown) > 1 else 1
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), dpi=150, layout="constrained")
    for place, draw in enumerate(shown, 1):
        draw(figure.add_subplot(rows, columns, place))
    figure.savefig(path)


# the model card


def model_card(
    title: str, command: str, fit: Fit, dataset: Dataset, report: Report, pictures: list[str], *, is_recipe: bool
) -> str:
    """README.md of a run folder: what was fitted to what, the measured numbers, how to use it."""
    from ppl_vae.storage import environment

    facts = environment()
    versions = ", ".join(f"{k} {facts['packages'][k]}" for k in ("ppl-vae", "torch", "pyro-ppl", "arviz"))
    unit = f" Unit of the data: {report.unit}." if report.unit else ""
    plots = "\n".join(f"![{Path(name).stem}]({name})" for name in pictures if name == "plots/overview.png")
    load = '"PATH OF THIS FOLDER"' + ("" if is_recipe else ", model, guide")
    summary = "\n".join(f"- {key}: {value}" for key, value in fit.summary().items())
    return f"""# {title}

{report.verdict}.

{report.markdown()}

An ELBO and an importance-weighted log-likelihood are lower bounds of log p(x) in expectation.{unit}

{plots}

## What was fitted

{summary}
- rows: {dataset!r}
- command: `{command}`
- made with: Python {facts["python"]}, {versions}

## How to use it

```python
import ppl_vae

fit = ppl_vae.load({load})
fit.sample(16)
```

`model.safetensors` holds the weights, `history.csv` the ELBO of every epoch, `posterior.nc` draws for ArviZ
(`arviz.from_netcdf`), `state.safetensors` what a resumed fit needs. No file here holds code.
"""
