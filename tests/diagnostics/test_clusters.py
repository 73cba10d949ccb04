"""Clusters beside classes, against the best of all matchings and a count of pairs."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch

from ppl_vae.diagnostics import cluster_agreement


def best_matching(clusters: torch.Tensor, labels: torch.Tensor, count: int) -> float:
    names = (torch.tensor(order) for order in permutations(range(count)))
    return max(float((name[clusters] == labels).double().mean()) for name in names)


def rand_by_pairs(clusters: torch.Tensor, labels: torch.Tensor) -> float:
    pairs = [(bool(clusters[i] == clusters[j]), bool(labels[i] == labels[j])) for i, j in pairs_of(len(labels))]
    both, first, second = (sum(hits) for hits in zip(*((a and b, a, b) for a, b in pairs), strict=True))
    chance = first * second / len(pairs)
    return (both - chance) / ((first + second) / 2 - chance)


def pairs_of(n: int) -> list[tuple[int, int]]:
    return list(combinations(range(n), 2))


@pytest.mark.parametrize("seed", range(5))
def test_both_numbers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (30,), generator=generator)
    clusters = torch.where(torch.rand(30, generator=generator) < 0.6, (labels + 1) % 4, 2)
    found = cluster_agreement(clusters, labels)
    assert found.accuracy == pytest.approx(best_matching(clusters, labels, 4))
    assert found.adjusted_rand == pytest.approx(rand_by_pairs(clusters, labels))
    assert cluster_agreement(7 - 3 * clusters, labels) == found  # whatever the clusters are called


def test_the_twin_clusters_as_they_are_numbered_agree_less() -> None:
    labels = torch.arange(30) % 3
    assert cluster_agreement((labels + 1) % 3, labels).accuracy == 1.0
    assert float((((labels + 1) % 3) == labels).double().mean()) == 0.0


@pytest.mark.parametrize(("clusters", "labels"), [((3,), (4,)), ((3, 1), (3, 1)), ((0,), (0,))])
def test_shapes_are_checked(clusters: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cluster_agreement: clusters and labels must be \(N,\)"):
        cluster_agreement(torch.zeros(clusters).long(), torch.zeros(labels).long())
