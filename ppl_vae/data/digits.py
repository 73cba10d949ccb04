"""The 8x8 handwritten digits bundled with scikit-learn."""

from __future__ import annotations

import torch

from ppl_vae.data.dataset import Dataset

NUM_TRAIN = 1500


def load_digits(*, binary: bool = False) -> Dataset:
    """Load the 1797 real 8x8 digits: the first 1500 rows to train on, the last 297 to test.

    The last rows come from other writers than the first, so the test is a little harder than a random split.

    Args:
        binary: 1 where a pixel is at least 8 of 16, else 0. Otherwise pixels are 0, 1/16, ..., 1: the
            fraction of full ink, in 17 exact levels (``Categorical(num_levels=17, step=1 / 16)`` is their
            likelihood).

    Returns:
        train (1500, 64) and test (297, 64) float32, labels long, image_shape (1, 8, 8).

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).

    >>> load_digits().train.max()
    tensor(1.)
    """
    from sklearn.datasets import load_digits as bundled

    bunch = bundled()
    pixels = torch.tensor(bunch.data, dtype=torch.float32)
    rows = (pixels >= 8).to(torch.float32) if binary else pixels / 16
    labels = torch.tensor(bunch.target, dtype=torch.long)
    return Dataset(
        name="digits",
        train=rows[:NUM_TRAIN].clone(),
        test=rows[NUM_TRAIN:].clone(),
        train_labels=labels[:NUM_TRAIN].clone(),
        test_labels=labels[NUM_TRAIN:].clone(),
        image_shape=(1, 8, 8),
        feature_names=tuple(f"pixel_{i // 8}_{i % 8}" for i in range(64)),
        label_names=tuple(map(str, range(10))),
        unit="1 = ink (pixel >= 8 of 16)" if binary else "fraction of full ink (levels of 1/16)",
    )
