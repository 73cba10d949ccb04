"""Fisher's iris, bundled with scikit-learn."""

from __future__ import annotations

import torch

from ppl_vae.data.dataset import Dataset


def load_iris() -> Dataset:
    """Load the 150 iris flowers: four lengths in cm, three species; all rows are train rows.

    Returns:
        train (150, 4) float32 in cm, train_labels (150,) long, no test rows.

    Source: R. A. Fisher, "The use of multiple measurements in taxonomic problems", 1936.

    >>> load_iris()
    Dataset(iris, train (150, 4), 3 classes, unit: cm)
    """
    from sklearn.datasets import load_iris as bundled

    bunch = bundled()
    return Dataset(
        name="iris",
        train=torch.tensor(bunch.data, dtype=torch.float32),
        train_labels=torch.tensor(bunch.target, dtype=torch.long),
        feature_names=tuple(bunch.feature_names),
        label_names=tuple(map(str, bunch.target_names)),
        unit="cm",
    )
