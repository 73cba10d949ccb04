"""The scale on which a recipe's model sees its data: columns standardized, grey levels from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Dataset


@dataclass(frozen=True)
class Scale:
    """Between the data as a person has them and as a recipe's model sees them, in plain fields.

    A table of real numbers is brought, column by column, to mean 0 and standard deviation 1 (of its training rows);
    grey levels 0, 1, ..., top to 0..1. What goes into a fit and what comes out is in the units of the data; densities
    are those of what the model sees, and :attr:`unit` says so.

    Args:
        mean, sd: by column; empty for grey levels.
        top: the highest grey level; None for a table.
    """

    mean: list[float]
    sd: list[float]
    top: int | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Scale | None:
        """The scale of a table of real numbers or of grey levels; None for zeros and ones, and fractions of ink."""
        from ppl_vae.data import grey_levels

        train = dataset.train.double()
        if bool(((train == 0) | (train == 1)).all()):
            return None
        named = dataset.feature_names is not None and dataset.image_shape is None
        top = None if named else grey_levels(train, images=dataset.image_shape is not None)
        if top is not None:
            return cls([], [], top)
        if train.dim() != 2 or dataset.image_shape is not None:
            return None
        mean, sd = train.mean(0), train.std(0, correction=0)
        constant = sd <= 1e-6 * mean.abs()  # in float32 its deviation is rounding
        return cls(mean.tolist(), sd.masked_fill(constant, 1.0).tolist())

    @classmethod
    def saved(cls, record: Any) -> Scale:
        """The scale of plain fields, as ``dataclasses.asdict`` gives them; older runs have no ``top``.

        Raises:
            ValueError: fields of another form.
        """
        try:
            scale = cls(**record)
            numbers = [*scale.mean, *scale.sd, *([] if scale.top is None else [scale.top])]
            fits = len(scale.mean) == len(scale.sd) and all(type(n) in (int, float) for n in numbers)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"a scale of columns (mean, sd) or of levels (top) is required, got {str(record)[:80]}")
        return scale

    @property
    def unit(self) -> str:
        """What densities are of, in words."""
        if self.top is not None:
            return f"whole numbers 0..{self.top}, divided by {self.top} for the model; densities are of the fractions"
        return "densities are per standard deviations of the columns, which are standardized for the model"

    def described(self, dataset: Dataset) -> Dataset:
        """The same rows as they are, with the unit of their densities."""
        return replace(dataset, unit=self.unit)

    def apply(self, dataset: Dataset) -> Dataset:
        """The rows as the model sees them."""
        test = None if dataset.test is None else self.forward(dataset.test)
        return replace(self.described(dataset), train=self.forward(dataset.train), test=test)

    def forward(self, rows: Tensor) -> Tensor:
        """From the units of the data to those of the model: (N, *event) to the same shape, fractions.

        Raises:
            ValueError: other columns than those of the run, or numbers that are not on its levels.
        """
        import torch

        exact, dtype = rows.double(), rows.dtype if rows.is_floating_point() else torch.get_default_dtype()
        if self.top is not None:
            self._require_levels(exact)
            return (exact / self.top).to(dtype)
        if rows.dim() != 2 or len(self.mean) != rows.shape[1]:
            raise ValueError(f"the data must have {len(self.mean)} columns as in the run, got {tuple(rows.shape)}")
        return ((exact - exact.new_tensor(self.mean)) / exact.new_tensor(self.sd)).to(dtype)

    def _require_levels(self, rows: Tensor) -> None:
        low, high = (float(end) for end in rows.aminmax())
        fractions = 0 < high <= 1 and not bool((rows == rows.round()).all())
        if low < 0 or high > self.top or fractions:  # type: ignore[operator]
            what = "fractions" if fractions else "numbers"
            raise ValueError(
                f"the data must be grey levels 0..{self.top} as in the run, got {what} from {low:g} to {high:g}"
            )

    def undo(self, rows: Any) -> Any:
        """What the model makes, in the units of the data."""
        if self.top is not None:
            return rows * self.top
        return rows * rows.new_tensor(self.sd) + rows.new_tensor(self.mean)


def refuse_few_values(dataset: Dataset, who: str) -> None:
    """Raise ValueError for columns of a table on which a density of real numbers has no upper bound.

    They are looked at in their own units: standardized, zeros and ones are two numbers like any others.
    """
    from ppl_vae.data import few_values

    if dataset.train.dim() != 2 or dataset.image_shape is not None:
        return  # of images, the recipe itself looks at the levels
    names = dataset.feature_names or tuple(map(str, range(dataset.train.shape[1])))
    found = {name: why for name, column in zip(names, dataset.train.T, strict=True) if (why := few_values(column))}
    if found and bool((dataset.train == dataset.train.round()).all()):
        raise ValueError(
            f"{who}: real numbers are required, got data on levels (whole multiples of 1/1), on which a density has no "
            f"upper bound: {_in_words(found)}; take the recipe survae"
        )
    if found:
        raise ValueError(
            f"{who}: columns of real numbers are required, for on a few values a density has no upper bound; got "
            f"{_in_words(found)}; leave these columns out, or add noise of one step to each (x + u, u in [0, 1))"
        )


def _in_words(found: dict[str, str]) -> str:
    shown = [f"column {name!r} ({why})" for name, why in list(found.items())[:5]]
    return ", ".join(shown) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
