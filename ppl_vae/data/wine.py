"""The wine data, bundled with scikit-learn."""

from __future__ import annotations

import torch

from ppl_vae.data.dataset import Dataset


def load_wine(*, standardize: bool = True) -> Dataset:
    """Load the chemistry of 178 wines: 13 measurements, three cultivars; all rows are train rows.

    Args:
        standardize: subtract each column's mean and divide by its standard deviation (the one with 1/N).
            Otherwise the measurements are in their own units, which differ by a factor of 1000 between
            columns.

    Returns:
        train (178, 13) float32, train_labels (178,) long, no test rows.

    Source: S. Aeberhard, M. Forina, "Wine", UCI, 1991.

    >>> load_wine()
    Dataset(wine, train (178, 13), 3 classes, unit: standard deviations of the column)
    """
    from sklearn.datasets import load_wine as bundled

    bunch = bundled()
    rows = torch.tensor(bunch.data, dtype=torch.float64)
    if standardize:
        rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    return Dataset(
        name="wine",
        train=rows.to(torch.float32),
        train_labels=torch.tensor(bunch.target, dtype=torch.long),
        feature_names=tuple(bunch.feature_names),
        label_names=tuple(map(str, bunch.target_names)),
        unit="standard deviations of the column" if standardize else "",
    )
