"""MNIST from its four IDX files."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.idx import read_idx

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)

#: sha256 of the uncompressed official files, so that one digest serves whichever way they were gzipped
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_PREFIX = {"train": "train", "test": "t10k"}
_TIMEOUT = 60.0  # seconds without an answer


def load_mnist(
    root: str | Path,
    *,
    binary: bool = False,
    download: bool = False,
    verify: bool = True,
    train: str = "train",
    test: str | None = "test",
) -> Dataset:
    """Load the 28x28 handwritten digits from a folder with the IDX files, gzipped or not.

    Args:
        root: the folder with ``train-images-idx3-ubyte`` and its three siblings, each with or without
            ``.gz``.
        binary: 1 where a pixel is at least 128 of 255, else 0; otherwise pixels are k/255, the fraction of
            full ink.
        download: fetch what is missing into ``root``, and verify it.
        verify: compare sha256 digests with those of the official files. Switch it off for other data in the
            same form, such as Fashion-MNIST.
        train: which split to train on. A folder that holds nothing but the ``t10k`` files serves with
            ``train="test", test=None``; by default a missing split is an error, never a silent None.
        test: which split to judge by, or None.

    Returns:
        train (60000, 784) and test (10000, 784) float32, labels long, image_shape (1, 28, 28).

    Raises:
        FileNotFoundError: a file is missing; all missing ones are named.
        ValueError: a file is broken, is not the official one, or images and labels differ in number.
        OSError: no mirror could be reached.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
    recognition", 1998.
    """
    root = Path(root)
    splits = [split for split in (train, test) if split is not None]
    files = _locate(root, splits, download)
    parts = {split: _read_split(files, split, binary, verify) for split in splits}
    train_rows, train_labels = parts[train]
    test_rows, test_labels = parts[test] if test is not None else (None, None)
    height, width = train_rows.shape[1:]
    return Dataset(
        name="mnist",
        train=train_rows.flatten(1),
        test=None if test_rows is None else test_rows.flatten(1),
        train_labels=train_labels,
        test_labels=test_labels,
        image_shape=(1, height, width),
        label_names=tuple(map(str, range(10))),
        unit="1 = ink (pixel >= 128 of 255)" if binary else "fraction of full ink (levels of 1/255)",
    )


def _stems(split: str) -> tuple[str, str]:
    if split not in _PREFIX:
        raise ValueError(f"load_mnist: a split must be 'train' or 'test', got {split!r}")
    return f"{_PREFIX[split]}-images-idx3-ubyte", f"{_PREFIX[split]}-labels-idx1-ubyte"


def _locate(root: Path, splits: Sequence[str], download: bool) -> dict[str, Path]:
    """Find the file of every stem, downloading on request."""
    files = {stem: _find(root, stem) for split in splits for stem in _stems(split)}
    missing = [stem for stem, path in files.items() if path is None]
    if missing and not download:
        names = ", ".join(f"{stem}[.gz]" for stem in missing)
        raise FileNotFoundError(
            f"load_mnist: {root} must hold {names}, found none; download=True fetches what is missing"
        )
    return {stem: path or _download(root, stem) for stem, path in files.items()}


def _find(root: Path, stem: str) -> Path | None:
    return next((path for path in (root / stem, root / f"{stem}.gz") if path.is_file()), None)


def _download(root: Path, stem: str) -> Path:
    """Fetch one gzipped file from the first mirror that answers; it gets its name only once verified."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"{stem}.gz"
    errors = []
    for mirror in MIRRORS:
        try:
            return _fetch(f"{mirror}{stem}.gz", target, SHA256[stem])
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            errors.append(f"{mirror}: {error}")
    raise OSError(f"load_mnist: {stem}.gz could not be fetched; {'; '.join(errors)}")


def _fetch(url: str, target: Path, sha256: str) -> Path:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        content = response.read()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        read_idx(name, sha256=sha256)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def _read_split(files: dict[str, Path], split: str, binary: bool, verify: bool) -> tuple[Tensor, Tensor]:
    """Read (N, H, W) pixels in [0, 1] and (N,) labels of one split."""
    images_stem, labels_stem = _stems(split)
    images = read_idx(files[images_stem], sha256=SHA256[images_stem] if verify else None)
    labels = read_idx(files[labels_stem], sha256=SHA256[labels_stem] if verify else None)
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"load_mnist: the {split} split must hold images (N, H, W) and labels (N,), "
            f"got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    pixels = (images >= 128).to(torch.float32) if binary else images.to(torch.float32) / 255
    return pixels, labels.to(torch.long)
