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

    def __post_init__(self) -> None:
        event = tuple(self.train.shape[1:])
        if self.test is not None and tuple(self.test.shape[1:]) != event:
            raise ValueError(f"Dataset: test must be (M, {_inside(event)}) as train is, got {tuple(self.test.shape)}")
        for part, labels in (("train", self.train_labels), ("test", self.test_labels)):
            rows = getattr(self, part)
            if labels is not None and (rows is None or labels.shape != rows.shape[:1]):
                required = "absent without test rows" if rows is None else f"({len(rows)},)"
                raise ValueError(f"Dataset: {part}_labels must be {required}, got {tuple(labels.shape)}")
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
