"""IDX files and the folder of MNIST."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae.data import load_mnist, mnist
from ppl_vae.data.idx import read_idx

rng = np.random.default_rng(0)
IMAGES = {
    "train": rng.integers(0, 256, (12, 28, 28), np.uint8),
    "t10k": rng.integers(0, 256, (5, 28, 28), np.uint8),
}
LABELS = {"train": rng.integers(0, 10, 12).astype(np.uint8), "t10k": rng.integers(0, 10, 5).astype(np.uint8)}


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def contents(prefixes=("train", "t10k")):
    found = {}
    for prefix in prefixes:
        found[f"{prefix}-images-idx3-ubyte"] = idx(IMAGES[prefix])
        found[f"{prefix}-labels-idx1-ubyte"] = idx(LABELS[prefix])
    return found


@pytest.fixture
def small(monkeypatch):
    """Make the small files the official ones."""
    monkeypatch.setattr(mnist, "SHA256", {k: hashlib.sha256(v).hexdigest() for k, v in contents().items()})


def write(root, compressed, prefixes=("train", "t10k")):
    for stem, content in contents(prefixes).items():
        (root / (stem + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return root


@pytest.mark.parametrize("compressed", [False, True])
def test_both_splits(tmp_path, small, compressed):
    data = load_mnist(write(tmp_path, compressed))
    assert data.train.shape == (12, 784)
    assert data.test.shape == (5, 784)
    assert data.image_shape == (1, 28, 28)
    assert torch.equal((data.train * 255).round().to(torch.uint8), torch.tensor(IMAGES["train"]).flatten(1))
    assert torch.equal(data.test_labels, torch.tensor(LABELS["t10k"]).long())
    assert data.as_images().test.shape == (5, 1, 28, 28)


def test_binary(tmp_path, small):
    data = load_mnist(write(tmp_path, True), binary=True)
    assert torch.equal(data.train, torch.tensor(IMAGES["train"] >= 128).float().flatten(1))


def test_a_folder_with_the_test_files_only(tmp_path, small):
    root = write(tmp_path, True, ["t10k"])
    message = r"must hold train-images-idx3-ubyte\[.gz\], train-labels-idx1-ubyte\[.gz\], found none; download=True"
    with pytest.raises(FileNotFoundError, match=message):
        load_mnist(root)
    data = load_mnist(root, train="test", test=None)
    assert data.train.shape == (5, 784)
    assert data.test is None
    assert data.test_labels is None


def test_a_split_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="a split must be 'train' or 'test', got 'valid'"):
        load_mnist(tmp_path, train="valid")


def test_another_content_is_refused_unless_asked_for(tmp_path):
    root = write(tmp_path, True)
    with pytest.raises(ValueError, match=r"the content of .*train-images-idx3-ubyte.gz must have sha256 ba891046e650"):
        load_mnist(root)
    assert load_mnist(root, verify=False).train.shape == (12, 784)


def test_images_and_labels_that_differ_in_number(tmp_path):
    write(tmp_path, False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS["t10k"]))
    with pytest.raises(ValueError, match=r"the train split must hold .*, got \(12, 28, 28\) and \(5,\)"):
        load_mnist(tmp_path, verify=False)


class Served:
    """Stands in for urlopen: answers from memory, or fails as a machine without a network does."""

    def __init__(self, answers, *, down=()):
        self.answers, self.down, self.asked = answers, down, []

    def __call__(self, url, timeout):
        import io

        self.asked.append(url)
        if any(url.startswith(mirror) for mirror in self.down):
            raise urllib.error.URLError("no route to host")
        return io.BytesIO(self.answers[url.rsplit("/", 1)[1]])


@pytest.fixture
def serve(monkeypatch):
    def install(**kwargs):
        answers = {f"{k}.gz": gzip.compress(v) for k, v in contents().items()}
        served = Served(answers, **kwargs)
        monkeypatch.setattr(mnist.urllib.request, "urlopen", served)
        return served

    return install


def test_download_fetches_what_is_missing_and_nothing_else(tmp_path, small, serve):
    served = serve()
    root = write(tmp_path, True, ["t10k"])
    data = load_mnist(root, download=True)
    assert data.train.shape == (12, 784)
    assert [url.rsplit("/", 1)[1] for url in served.asked] == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    assert load_mnist(root).train.shape == (12, 784)
    assert len(served.asked) == 2
    assert len(list(root.iterdir())) == 4  # no temporary file is left


def test_download_goes_to_the_next_mirror(tmp_path, small, serve):
    serve(down=mnist.MIRRORS[:1])
    assert load_mnist(tmp_path / "new", download=True).test.shape == (5, 784)


def test_download_without_a_network(tmp_path, small, serve):
    serve(down=mnist.MIRRORS)
    with pytest.raises(OSError, match=r"train-images-idx3-ubyte.gz could not be fetched; https.*no route to host"):
        load_mnist(tmp_path, download=True)


def test_a_download_with_another_content_leaves_nothing(tmp_path, serve):
    serve()
    with pytest.raises(ValueError, match="must have sha256 ba891046e650"):
        load_mnist(tmp_path, download=True)
    assert not list(tmp_path.iterdir())


BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
MNIST = Path(os.environ.get("PPL_VAE_MNIST", BESIDE))


@pytest.mark.skipif(
    not MNIST.is_dir(), reason="no folder with the t10k files (PPL_VAE_MNIST, or shared/data/mnist beside the project)"
)
def test_the_real_test_files():
    data = load_mnist(MNIST, train="test", test=None)
    assert data.train.shape == (10_000, 784)
    assert data.train_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.double().mean().item() == pytest.approx(0.13251, abs=1e-5)


def test_idx_of_any_shape(tmp_path):
    for shape in [(3,), (2, 3), (2, 3, 4), (0, 3)]:
        array = rng.integers(0, 256, shape, np.uint8)
        (tmp_path / "a").write_bytes(idx(array))
        assert torch.equal(read_idx(tmp_path / "a"), torch.tensor(array))


BROKEN = {
    "empty": (b"", r"must be an IDX file of unsigned bytes, got 0 bytes that start with b''"),
    "a png": (
        b"\x89PNG....",
        r"must be an IDX file of unsigned bytes, got 8 bytes that start with b'\\x89PNG'",
    ),
    "floats": (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "must be an IDX file of unsigned bytes"),
    "no sizes": (b"\0\0\x08\x03\0\0", "must be an IDX file of unsigned bytes, got 6 bytes"),
    "truncated": (idx(LABELS["train"])[:-1], r"must hold 12 bytes after its header, got 11"),
    "too long": (idx(LABELS["train"]) + b"\0", r"must hold 12 bytes after its header, got 13"),
    "truncated gzip": (
        gzip.compress(idx(IMAGES["train"]))[:-20],
        "must be a whole gzip file, got a broken one",
    ),
    "flipped gzip": (gzip.compress(b"0" * 1000)[:14] + b"\xff\xff\xff\xff", "must be a whole gzip file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match=r"read_idx: .*broken " + message):
        read_idx(tmp_path / "broken")
