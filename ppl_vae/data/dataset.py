"""What every loader returns: rows to train on, rows to judge by, and the names that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set: tensors whose axis 0 is the datum, and names.

    Args:
        name: what it is called, in reports and run folders.
        train: (N, *event) rows to fit.
        test: (M, *event) rows to judge by, or None where there is no fixed split.
        train_labels: (N,) long class numbers, or None.
        test_labels: (M,) long class numbers, or None.
        image_shape: (C, H, W) where a row is an image, flattened or not.
        feature_names: the names of the entries of a row, where it is flat and they have names.
        label_names: the names of the classes, by number.
        unit: what one unit of an entry is, in words.
        train_index: the name or number of each row of ``train``, where they have any.
        test_index: likewise of ``test``.
        index_name: what the column of these is called, where it has a name.
        train_label_text: of rows of ``train``, the class as the file has it, where some are not among ``label_names``.
        test_label_text: likewise of ``test``.
        notes: what was not read to the letter, a sentence each.

    Raises:
        ValueError: shapes that do not fit together.

    >>> from ppl_vae.data import load_digits
    >>> load_digits(binary=True)
    Dataset(digits, train (1500, 64), test (297, 64), 10 classes, images 1x8x8, unit: 1 = ink (pixel >= 8 of
    16))
    """

    name: str
    train: Tensor
    test: Tensor | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    image_shape: tuple[int, int, int] | None = None
    feature_names: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None
    unit: str = ""
    train_index: tuple[str | int, ...] | None = None
    test_index: tuple[str | int, ...] | None = None
    index_name: str | None = None
    train_label_text: tuple[str, ...] | None = None
    test_label_text: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        event = tuple(self.train.shape[1:])
        if self.test is not None and tuple(self.test.shape[1:]) != event:
            raise ValueError(f"Dataset: test must be (M, {_inside(event)}) as train is, got {tuple(self.test.shape)}")
        for part, labels in (("train", self.train_labels), ("test", self.test_labels)):
            rows = getattr(self, part)
            if labels is not None and (rows is None or labels.shape != rows.shape[:1]):
                required = "absent without test rows" if rows is None else f"({len(rows)},)"
                raise ValueError(f"Dataset: {part}_labels must be {required}, got {tuple(labels.shape)}")
        for part, index in (("train", self.train_index), ("test", self.test_index)):
            count = 0 if getattr(self, part) is None else len(getattr(self, part))
            if index is not None and len(index) != count:
                raise ValueError(f"Dataset: {part}_index must name {count} rows, got {len(index)}")
        if self.image_shape is not None and math.prod(self.image_shape) != math.prod(event):
            raise ValueError(f"Dataset: image_shape must hold {math.prod(event)} entries, got {self.image_shape}")
        if self.feature_names is not None and event != (len(self.feature_names),):
            raise ValueError(f"Dataset: {event} needs as many feature_names, got {len(self.feature_names)}")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.train.shape[1:])

    @property
    def dims(self) -> dict[str, list[str]]:
        """ArviZ dimension names of the site "x", after chain and draw.

        >>> from ppl_vae.data import load_iris
        >>> load_iris().dims
        {'x': ['datum', 'feature']}
        """
        if self.image_shape is not None and len(self.event_shape) == 3:
            return {"x": ["datum", "channel", "row", "column"]}
        if len(self.event_shape) == 1:
            return {"x": ["datum", "feature" if self.image_shape is None else "pixel"]}
        return {"x": ["datum", *(f"x_dim_{i}" for i in range(len(self.event_shape)))]}

    @property
    def coords(self) -> dict[str, list[str] | list[int]]:
        """ArviZ coordinates of the event dimensions named by :attr:`dims`; the datum is the caller's to
        number.

        >>> from ppl_vae.data import load_iris
        >>> load_iris().coords["feature"][0]
        'sepal length (cm)'
        """
        names = self.dims["x"][1:]
        coords: dict[str, list[str] | list[int]] = {
            dim: list(range(size)) for dim, size in zip(names, self.event_shape, strict=True)
        }
        if self.feature_names is not None:
            coords[names[0]] = list(self.feature_names)
        return coords

    def index_of(self, part: str) -> tuple[str | int, ...]:
        """The name or number of each row of ``"train"`` or ``"test"``; numbers from 0 where they have none.

        >>> from ppl_vae.data import load_iris
        >>> load_iris().index_of("train")[:3]
        (0, 1, 2)
        """
        index: tuple[str | int, ...] | None = getattr(self, f"{part}_index")
        rows = getattr(self, part)
        return index if index is not None else tuple(range(0 if rows is None else len(rows)))

    def as_images(self) -> Dataset:
        """Return the same rows as images (N, C, H, W), for networks that convolve.

        Raises:
            ValueError: the rows are no images.

        >>> from ppl_vae.data import load_digits
        >>> load_digits().as_images().train.shape
        torch.Size([1500, 1, 8, 8])
        """
        if self.image_shape is None:
            raise ValueError(f"Dataset: as_images needs an image_shape, and {self.name} has none")
        shape = self.image_shape
        test = None if self.test is None else self.test.reshape(-1, *shape)
        return replace(self, train=self.train.reshape(-1, *shape), test=test, feature_names=None)

    def __repr__(self) -> str:
        parts = [self.name, f"train {tuple(self.train.shape)}"]
        parts += [] if self.test is None else [f"test {tuple(self.test.shape)}"]
        parts += [] if self.label_names is None else [f"{len(self.label_names)} classes"]
        parts += [] if self.image_shape is None else ["images " + "x".join(map(str, self.image_shape))]
        parts += [f"unit: {self.unit}"] if self.unit else []
        return f"Dataset({', '.join(parts)})"


def _inside(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
