"""Logistic regression on the breast cancer data of scikit-learn: the eleventh posterior, which needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from posteriors.posterior import Data, Posterior, Reference, double, product

LOG_EVIDENCE, ERROR = -55.226, 0.007
ELBO_LIMIT = -55.51


def logistic(x: Tensor, y: Tensor) -> None:
    """Malignant or benign by thirty measurements and an intercept."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=product(x, weights)), obs=y)


def _table(_: Mapping[str, Any]) -> Data:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return torch.cat([double(x), torch.ones(len(x), 1, dtype=torch.float64)], -1), double(y)


class Logistic(Posterior):
    """The posterior that no file describes: its evidence is known, its moments are not."""

    def read(self, folder: Any) -> dict[str, Any]:
        """Nothing: scikit-learn has the data."""
        return {"data": {}}

    def reference(self, file: Mapping[str, Any]) -> Reference:
        """The evidence alone."""
        nan = torch.full((31,), torch.nan, dtype=torch.float64)
        return Reference(nan, nan, nan.diag(), nan, LOG_EVIDENCE, ERROR, None)


BREAST_CANCER = Logistic(
    "breast_cancer",
    "",
    logistic,
    _table,
    {"weights": constraints.real},
    gap_limit=LOG_EVIDENCE - ELBO_LIMIT,
    seconds_limit=3.0,
    sizes={"weights": 31},
)
