"""``ppl-vae diagnose``: everything that can be asked of a run, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae.recipes.report import NOUNS, Part

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.commands.opening import Opened
    from ppl_vae.diagnostics import Diagnosis

PAGE = "diagnosis.html"


def diagnose_run(
    opened: Opened, source: str | None = None, *, seconds: float, thorough: bool = False, seed: int = 0
) -> tuple[Diagnosis, tuple[str, ...]]:
    """Diagnose a run on its test rows (else its training rows), or on all rows of other data.

    Args:
        opened: the run.
        source: other data; None for those of the run.
        seconds: how long it may take, about.
        thorough: chains too.
        seed: of the draws.

    Returns:
        the Diagnosis, and notes on the data.
    """
    from ppl_vae.diagnostics import diagnose

    fit = opened.fit
    train: Tensor | None
    index: Sequence[str | int]
    if source in (None, opened.plan.data):
        dataset = opened.dataset()
        held_out = dataset.test is not None and not fit.takes("index")
        name = "test" if held_out else "train"
        train, rows, index, note = dataset.train, getattr(dataset, name), dataset.index_of(name), ""
    else:
        dataset = opened.dataset(source, hold_out=False)
        part = Part.of_all(dataset)
        name, rows, index = "rows", part.rows, part.index
        train, note = opened.training_rows()
    noun = NOUNS.get(dataset.name, "rows")
    options: dict[str, Any] = {"seconds": seconds, "thorough": thorough, "seed": seed}
    found = diagnose(
        fit,
        rows,
        train=train,
        names=index,
        noun=noun if name == "rows" else f"{name} {noun}",
        columns="pixels" if dataset.image_shape else "columns",
        image_shape=dataset.image_shape,
        **options,
    )
    return found, tuple(text for text in (*dataset.notes, note) if text)
