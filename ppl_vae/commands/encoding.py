"""``ppl-vae encode``: what a fit makes of each row, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.commands.naming import Column, named_apart
from ppl_vae.commands.plan import recipe_of
from ppl_vae.storage import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ppl_vae.commands.opening import Opened
    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

FIXED, LATENT, GIVEN = range(3)  # whose name stays: of what every table has, of the model, of a person's data
ODDEST = 5  # rows that are named


def encode_rows(
    opened: Opened, dataset: Dataset, *, num_samples: int | None = None, seed: int = 0
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row a datum, that of the least log p(x) first.

    The columns: the index; ``part`` where there are train and test rows; the posterior mean of each continuous latent,
    by entry, and the most probable class of each discrete one, also of those that are summed out; the label, where
    there are any; ``log_p``, the importance-weighted estimate of log p(x) in nats (exact where it can be), its
    ``standard_error``, and its ``khat``. Where two have one name, that of the data gives way, such as "c (label)".

    Args:
        opened: the run.
        dataset: the rows, in the columns and units of the run.
        num_samples: draws a datum for log p(x); by default 1000, fewer of many rows, and none where the sum
            over all codes can be had.
        seed: of the draws.

    Returns:
        the table, and notes on columns that are not called what they are called in the data.

    Raises:
        GlobalLatentError: the latents are shared by all data, so that no row has a code of its own.
        ValueError: parameters are kept for each row of the fit.
    """
    import pandas as pd

    fit = opened.fit
    fit.sites.require_local("encode")
    if fit.takes("index"):
        raise ValueError("encode: rows that a guide can read are required, and this one keeps parameters for each row")
    recipe = recipe_of(opened.plan.target)
    class_names = {recipe.label_site: dataset.label_names} if recipe and recipe.label_site else {}
    tables: list[pd.DataFrame] = []
    notes: tuple[str, ...] = ()
    for part in ("train", "test"):
        rows, labels = getattr(dataset, part), getattr(dataset, f"{part}_labels")
        if rows is None:
            continue
        columns = [Column(dataset.index_name or "row", list(dataset.index_of(part)), "index", GIVEN)]
        columns += [Column("part", part, "part", FIXED)] if dataset.test is not None else []
        columns += _columns(_latents(fit, rows, class_names, seed), "latent", LATENT)
        if labels is not None:
            named = getattr(dataset, f"{part}_label_text") or _named(labels, dataset.label_names)
            columns.append(Column(opened.plan.label or "label", named, "label", GIVEN))
        columns += _columns(_evidence(fit, rows, num_samples, seed), "estimate", FIXED)
        table, notes = named_apart(columns)
        tables.append(pd.DataFrame(table))
    together = pd.concat(tables)
    return together.sort_values("log_p", kind="stable", na_position="first", ignore_index=True), notes


def _columns(values: dict[str, Any], role: str, precedence: int) -> list[Column]:
    return [Column(name, column, role, precedence) for name, column in values.items()]


def _latents(fit: Fit, rows: Tensor, class_names: dict[Any, Any], seed: int) -> dict[str, Any]:
    """Posterior means by entry, and classes."""
    from ppl_vae.diagnostics.usage import discrete_sites

    found: dict[str, Any] = {}
    discrete = discrete_sites(fit.pair)
    if set(fit.latents) - set(discrete):
        means = fit.encode(rows, seed=seed)
        for name, value in (means if isinstance(means, dict) else {next(iter(fit.latents)): means}).items():
            if name not in discrete:
                found |= _entries(name, value.reshape(len(rows), *fit.latents[name].event_shape))
    for name in discrete:
        codes = fit.codes(rows, name, seed=seed)
        names = class_names.get(name)
        found |= {name: _named(codes[:, 0], names)} if names else _entries(name, codes.squeeze(1))
    return found


def _entries(name: str, values: Tensor) -> dict[str, Any]:
    if values.dim() == 1:
        return {name: values.numpy()}
    return {f"{name}[{i}]": column.numpy() for i, column in enumerate(values.flatten(1).T)}


def _named(classes: Tensor, names: tuple[str, ...] | None) -> list[Any]:
    """Classes by name, or by number; nothing for -1."""
    return ["" if c < 0 else names[c] if names else c for c in classes.tolist()]


def _evidence(fit: Fit, rows: Tensor, num_samples: int | None, seed: int) -> dict[str, Any]:
    from ppl_vae.evidence import ImportanceWeighted
    from ppl_vae.pair.table import few_codes
    from ppl_vae.recipes import budget

    if num_samples is None and few_codes(fit.pair) is None:
        num_samples = budget.num_samples(fit, len(rows), most=1000)
    found = fit.log_evidence(rows, None if num_samples is None else ImportanceWeighted(num_samples), seed=seed)
    return {
        "log_p": found.value.numpy(),
        "standard_error": found.standard_error.numpy(),
        "khat": found.khat.numpy(),
    }


def write_codes(path: Path, table: pd.DataFrame) -> None:
    """Write the table as ``.csv``."""
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: the suffix must be .csv")
    atomic_write(path, table.to_csv(index=False, float_format="%.6g").encode())


def in_words(table: pd.DataFrame) -> str:
    """The oddest rows by name, and how many estimates are not to be believed."""
    from ppl_vae.evidence.pooling import KHAT_LIMIT

    odd = ", ".join(
        f"{name} ({log_p:.1f})" for name, log_p in zip(table.iloc[:ODDEST, 0], table["log_p"], strict=False)
    )
    words = f"least log p, nats: {odd}"
    doubtful = int((~(table["khat"] < KHAT_LIMIT) | table["standard_error"].isna()).sum())
    if doubtful:
        words += (
            f"\n{doubtful} of {len(table)} rows have a k-hat of {KHAT_LIMIT} or more, or no error bar: their log p may "
            "be far too low"
        )
    return words
