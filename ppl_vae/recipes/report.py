"""What a run says at its end: a table, a verdict, figures and a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_vae.recipes.base import no_numbers
from ppl_vae.recipes.budget import SECONDS, Effort, affordable, spread

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.diagnostics import Verdict
    from ppl_vae.evidence import Decomposition, MeanEvidence
    from ppl_vae.result import Fit

MOST_ROWS = 5000  # rows of a part that are judged

NOUNS = {"digits": "digits", "mnist": "digits", "iris": "flowers", "wine": "wines"}


@dataclass(frozen=True, eq=False)
class Report:
    """The numbers of one run, nats per datum.

    Args:
        parts: the pieces of the evidence by part of the data ("train", "test"; of other data "rows").
        verdict: what they say in plain words, of the test rows where there are any.
        unit: what a unit of the data is, since densities depend on it.
        latents: the names of the latents that the guide draws.
        further: what else was measured, by part and name; counts are whole numbers. Not in nats.
        is_flow: is the guide a point, whose volume the site of x counts?
        efforts: which rows were judged, by part.
    """

    parts: dict[str, Decomposition]
    verdict: Verdict
    unit: str = ""
    latents: tuple[str, ...] = ("z",)
    further: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    is_flow: bool = False
    efforts: Mapping[str, Effort] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Is the log-likelihood exact?"""
        return all(part.evidence.bound == "exact" for part in self.parts.values())

    def rows(self) -> list[tuple[str, list[str]]]:
        """The table: a name, and the value for each part."""
        table = [
            (name, [f"{sign * part.mean()[key]:.3f}" for part in self.parts.values()])
            for name, key, sign in self._pieces()
        ]
        evidence = [part.evidence.mean() for part in self.parts.values()]
        how = "exact" if self.exact else "importance-weighted"
        table.append((f"log-likelihood ({how})", [f"{mean.value:.3f}" for mean in evidence]))
        if not self.exact:
            table.append(("  its standard error", [_error(mean) for mean in evidence]))
        return table + self._further_rows()

    def _pieces(self) -> list[tuple[str, str, int]]:
        """What the ELBO consists of: a name, the piece, its sign. A flow has no KL: its q(z|x) is a point."""
        z = ", ".join(self.latents)
        if self.is_flow:
            return [("ELBO", "elbo", 1), (f"log p({z})", "kl", -1), ("contribution of the flow", "reconstruction", 1)]
        return [
            ("ELBO", "elbo", 1),
            ("reconstruction", "reconstruction", 1),
            (f"KL(q({z}|x) || p({z}))", "kl", 1),
        ]

    def _further_rows(self) -> list[tuple[str, list[str]]]:
        names = dict.fromkeys(name for numbers in self.further.values() for name in numbers)
        return [(name, [_shown(self.further.get(part, {}).get(name)) for part in self.parts]) for name in names]

    def header(self) -> list[str]:
        """The names of the columns: which rows, how many, with how many importance samples."""
        return [f"{name} ({_rows_of(part, self.efforts.get(name))})" for name, part in self.parts.items()]

    def numbers(self) -> dict[str, dict[str, float]]:
        """The same as plain data."""
        return {name: {**_numbers(part), **self.further.get(name, {})} for name, part in self.parts.items()}

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


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that are judged together.

    Args:
        rows: (N, *event), in the units of the data.
        labels: (N,) long, or None.
        index: their names or numbers.
    """

    rows: Tensor
    labels: Tensor | None
    index: Sequence[str | int]

    @classmethod
    def of_all(cls, dataset: Dataset) -> Part:
        """All rows of a data set, those of its test part after the others."""
        if dataset.test is None:
            return cls(dataset.train, dataset.train_labels, dataset.index_of("train"))
        import torch

        rows, labels = torch.cat([dataset.train, dataset.test]), (dataset.train_labels, dataset.test_labels)
        named = dataset.train_index is not None and dataset.test_index is not None
        index = [*dataset.index_of("train"), *dataset.index_of("test")] if named else range(len(rows))
        known = None if labels[0] is None or labels[1] is None else torch.cat([labels[0], labels[1]])
        return cls(rows, known, index)

    def labels_of(self, rows: Tensor) -> Tensor | None:
        """The labels of its first rows."""
        return None if self.labels is None else self.labels[: len(rows)]


Measure = Callable[["Fit", "Tensor", "Tensor | None"], Mapping[str, float]]


def judge(
    fit: Fit,
    dataset: Dataset,
    *,
    measure: Measure = no_numbers,
    seed: int = 0,
    seconds: float = SECONDS,
    progress: bool = True,
) -> Report:
    """Take the evidence of train and test rows apart, and put it in words.

    Importance samples a datum: 5000, fewer where the rows are many; fewer still, and in the end fewer rows, where they
    would take longer than ``seconds``; the head of the table says how many. With latents that all data share, or with
    parameters for each row, only the train rows are judged: the others were never seen by the guide. No labels are
    given to the pair: those of the data are for ``measure`` alone.

    Args:
        fit: the fitted pair.
        dataset: its data.
        measure: further numbers, of the fit, rows and their labels.
        seed: of the draws.
        seconds: for the draws, about.
        progress: show a bar, in a terminal or a notebook.
    """
    parts = {"train": Part(dataset.train, dataset.train_labels, dataset.index_of("train"))}
    if dataset.test is not None and not fit.has_global_latents and not fit.takes("index"):
        parts["test"] = Part(dataset.test, dataset.test_labels, dataset.index_of("test"))
    return _judge(
        fit, dataset, parts, train=dataset.train, measure=measure, seed=seed, seconds=seconds, progress=progress
    )


def judge_others(
    fit: Fit,
    others: Dataset,
    train: Tensor | None,
    *,
    measure: Measure = no_numbers,
    seed: int = 0,
    seconds: float = SECONDS,
    progress: bool = True,
) -> Report:
    """Judge all rows of other data, none of which was trained on, as one part called "rows".

    Args:
        fit: the fitted pair.
        others: the other data, in the units of those of the fit.
        train: the rows that it was trained on: what the others are held against, and what the baselines are fitted to.
            None, where they cannot be had, leaves both out.
        measure, seed, seconds, progress: as for :func:`judge`.
    """
    parts = {"rows": Part.of_all(others)}
    return _judge(fit, others, parts, train=train, measure=measure, seed=seed, seconds=seconds, progress=progress)


def _judge(
    fit: Fit,
    dataset: Dataset,
    parts: Mapping[str, Part],
    *,
    train: Tensor | None,
    measure: Measure,
    seed: int,
    seconds: float,
    progress: bool,
) -> Report:
    from ppl_vae.diagnostics import Verdict as VerdictOf
    from ppl_vae.diagnostics import active_units, baselines
    from ppl_vae.diagnostics.baseline import unchanging
    from ppl_vae.evidence import decomposition
    from ppl_vae.training.progress import stage

    shown = {name: part.rows[:MOST_ROWS] for name, part in parts.items()}
    scored = dict(shown)
    if train is not None and not fit.has_global_latents and not fit.takes("index"):
        scored["train"] = train[:MOST_ROWS]
    pieces, efforts = {}, {}
    for name, rows in scored.items():
        efforts[name] = effort = affordable(fit, rows, seconds=seconds / len(scored), seed=seed)
        with stage(f"log p(x) of {name} rows", len(effort.rows), enabled=progress) as done:
            pieces[name] = decomposition(fit, effort.rows, num_samples=effort.num_samples, seed=seed, progress=done)
    last = list(parts)[-1]
    # In a flow every dimension moves with the datum.
    units = active_units(fit, shown[last], seed=seed) if len(shown[last]) > 1 and not fit.counts_volume else None
    noun = NOUNS.get(dataset.name, "rows")
    further = {
        name: {**_codes(fit, rows), **measure(fit, rows, parts[name].labels_of(rows))} for name, rows in shown.items()
    }
    judged, index = efforts[last].rows, parts[last].index
    columns = "pixels" if dataset.image_shape else "columns"
    simple = [] if train is None else baselines(fit, train, judged, columns=columns)
    verdict = VerdictOf.of(
        pieces[last],
        units,
        noun=noun if last == "rows" else f"{last} {noun}",
        num_rows=len(judged),
        train=pieces["train"].evidence if last != "train" and "train" in pieces else None,
        baselines=simple,
        no_baseline="" if simple or train is None else unchanging(fit, train, columns=columns),
        names=[index[i] for i in spread(len(shown[last]), len(judged))],
    )
    reported = {name: pieces[name] for name in parts}
    return Report(reported, verdict, dataset.unit, tuple(fit.latents), further, fit.counts_volume, efforts)


def _codes(fit: Fit, rows: Tensor) -> dict[str, float]:
    """How the classes of every discrete latent are used."""
    from ppl_vae.diagnostics import code_usage
    from ppl_vae.diagnostics.usage import discrete_sites

    found: dict[str, float] = {}
    for name in discrete_sites(fit.pair):
        usage = code_usage(fit, rows, name)
        latents, classes = usage.usage.shape
        each = f"{latents} x {classes}" if latents > 1 else str(classes)
        found[f"perplexity of {name} (of {classes})"] = float(usage.perplexity.mean())
        found[f"dead classes of {name} (of {each})"] = int(usage.dead.sum())
    return found


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _error(mean: MeanEvidence) -> str:
    """The Monte Carlo error of a mean; where it is not known of some rows, of how many."""
    some = 0 < mean.num_unknown < mean.num_data
    return mean.error_in_words(".3f") + (f" ({mean.num_unknown} of {mean.num_data} rows unknown)" if some else "")


def _rows_of(part: Decomposition, effort: Effort | None) -> str:
    count = f"{len(part.elbo)} rows" if part.elbo.dim() else "all rows at once"
    if effort is not None and len(effort.rows) < effort.num_rows:
        count = f"{len(effort.rows)} of {effort.num_rows} rows"
    samples = part.evidence.estimator.partition("(")[2].rstrip(")")
    return f"{count}, K = {samples}" if part.evidence.bound != "exact" else count


def _numbers(part: Decomposition) -> dict[str, float]:
    evidence = part.evidence.mean()
    names = ("elbo", "reconstruction", "kl")
    return {
        **{name: part.mean()[name] for name in names},
        "log_likelihood": evidence.value,
        "log_likelihood_standard_error": evidence.standard_error,
    }


# the model card


def _bound(report: Report) -> str:
    """Whether the numbers are log p(x) itself."""
    if not report.exact:
        return "An ELBO and an importance-weighted log-likelihood are lower bounds of log p(x) in expectation."
    if report.is_flow:
        return "The flow is exact: the ELBO is the log-likelihood log p(x) itself, log p(z) + contribution."
    return "The log-likelihood is exact, a sum over all codes; an ELBO is a lower bound of it."


def model_card(
    title: str,
    command: str,
    fit: Fit,
    dataset: Dataset,
    report: Report,
    pictures: list[str],
    *,
    note: str = "",
    is_recipe: bool,
) -> str:
    """README.md of a run folder: what was fitted to what, the measured numbers, how to use it."""
    from ppl_vae.storage import environment

    facts = environment()
    versions = ", ".join(f"{k} {facts['packages'][k]}" for k in ("ppl-vae", "torch", "pyro-ppl", "arviz"))
    unit = f" Unit of the data: {report.unit}." if report.unit else ""
    plots = "\n".join(f"![{Path(name).stem}]({name})" for name in pictures if name == "plots/overview.png")
    load = '"PATH OF THIS FOLDER"' + ("" if is_recipe else ", model, guide")
    summary = "\n".join(f"- {key}: {value}" for key, value in fit.summary().items())
    summary += f"\n- note: {note}" if note else ""
    bound = _bound(report)
    return f"""# {title}

{report.verdict}.

{report.markdown()}

{bound}{unit}

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
