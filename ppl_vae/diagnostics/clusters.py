"""How well clusters agree with classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ClusterAgreement", "cluster_agreement"]


@dataclass(frozen=True)
class ClusterAgreement:
    """Clusters beside classes; neither number depends on how the clusters are numbered.

    Attributes:
        accuracy: the share of data whose cluster is matched with their class, under the best one-to-one matching.
        adjusted_rand: of all pairs of data, how often both say "together" or both "apart", from chance (0) to 1.
    """

    accuracy: float
    adjusted_rand: float


def cluster_agreement(clusters: Tensor, labels: Tensor) -> ClusterAgreement:
    r"""Compare clusters that were found with classes that are known.

    .. math:: accuracy = \max_\pi \frac1N \sum_n 1[\pi(c_n) = y_n]

    Args:
        clusters: (N,) long, such as ``fit.codes(x)[:, 0]``.
        labels: (N,) long.

    Raises:
        ValueError: shapes that differ, or no data.

    Source: L. Hubert, P. Arabie, "Comparing partitions", 1985 (the adjusted Rand index).

    >>> cluster_agreement(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 0, 1, 1]))
    ClusterAgreement(accuracy=1.0, adjusted_rand=1.0)
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score

    if clusters.dim() != 1 or clusters.shape != labels.shape or not len(labels):
        raise ValueError(
            "cluster_agreement: clusters and labels must be (N,) with N >= 1, "
            f"got {tuple(clusters.shape)} and {tuple(labels.shape)}"
        )
    (names, c), (classes, y) = (values.unique(return_inverse=True) for values in (clusters, labels))
    counts = torch.zeros(len(names), len(classes)).index_put((c, y), torch.ones(len(c)), accumulate=True)
    matched = counts[linear_sum_assignment(counts.numpy(), maximize=True)].sum()
    return ClusterAgreement(float(matched) / len(labels), float(adjusted_rand_score(y.numpy(), c.numpy())))
