"""The data sets inside scikit-learn: splits, units, and likelihoods that anybody can recompute."""

from __future__ import annotations

import math

import pytest
import torch

from ppl_vae.data import load_digits, load_iris, load_wine

# name: (load, train shape, test shape, classes)
BUNDLED = {
    "digits": (load_digits, (1500, 64), (297, 64), 10),
    "binary digits": (lambda: load_digits(binary=True), (1500, 64), (297, 64), 10),
    "iris": (load_iris, (150, 4), None, 3),
    "wine": (load_wine, (178, 13), None, 3),
    "raw wine": (lambda: load_wine(standardize=False), (178, 13), None, 3),
}


@pytest.mark.parametrize("name", BUNDLED)
def test_shapes_types_and_names(name):
    load, train, test, classes = BUNDLED[name]
    data = load()
    assert data.train.shape == train
    assert data.train.dtype == torch.float32
    assert data.train.isfinite().all()
    assert (None if data.test is None else data.test.shape) == test
    assert data.train_labels.shape == train[:1]
    assert data.train_labels.dtype == torch.long
    assert len(data.label_names) == classes == int(data.train_labels.max()) + 1
    assert len(data.feature_names) == train[1]
    # A loader gives its own copy each time: no caller can change another's data.
    data.train.zero_()
    assert load().train.abs().sum() > 0


def test_digits_are_the_first_1500_and_the_last_297_rows_of_scikit_learn():
    from sklearn.datasets import load_digits as bundled

    pixels = torch.tensor(bundled().data, dtype=torch.float32)
    data, binary = load_digits(), load_digits(binary=True)
    assert torch.equal(torch.cat([data.train, data.test]) * 16, pixels)
    assert torch.equal(torch.cat([binary.train, binary.test]), (pixels >= 8).float())
    assert torch.equal(data.test_labels, torch.tensor(bundled().target[1500:]))


def test_binary_digits_have_the_known_bernoulli_likelihood():
    """Independent pixels with add-one smoothing: -24.585 nats a test row."""
    data = load_digits(binary=True)
    p = (data.train.double().sum(0) + 1) / (len(data.train) + 2)
    value = (data.test * p.log() + (1 - data.test) * (1 - p).log()).sum(-1).mean()
    assert value.item() == pytest.approx(-24.585, abs=5e-4)


PPCA = {  # (load, q): mean log-likelihood a row at the maximum, nats
    ("iris", 1): -3.137796,
    ("iris", 2): -2.699752,
    ("iris", 3): -2.532764,
    ("wine", 1): -17.004467,
    ("wine", 2): -16.155260,
    ("wine", 3): -15.701792,
}


@pytest.mark.parametrize(("name", "q"), PPCA)
def test_iris_and_wine_have_the_known_ppca_likelihood(name, q):
    """The closed form (Tipping, Bishop 1999) with the 1/N covariance."""
    value = _ppca_log_likelihood(BUNDLED[name][0]().train.double(), q, correction=0)
    assert value == pytest.approx(PPCA[name, q], abs=1e-5)
    twin = _ppca_log_likelihood(BUNDLED[name][0]().train.double(), q, correction=1)
    assert twin != pytest.approx(PPCA[name, q], abs=1e-5)  # negative twin: another covariance is another number


def _ppca_log_likelihood(x, q, correction):
    d = x.shape[1]
    eigenvalues = torch.linalg.eigvalsh(x.T.cov(correction=correction)).flip(0)
    noise = eigenvalues[q:].mean()
    log_det = eigenvalues[:q].log().sum() + (d - q) * noise.log()
    return -0.5 * (d * math.log(2 * math.pi) + log_det.item() + d)


def test_wine_is_standardized_with_the_1_over_n_deviation():
    wine = load_wine().train.double()
    torch.testing.assert_close(wine.mean(0), torch.zeros(13, dtype=torch.float64), rtol=0, atol=1e-6)
    one = torch.ones(13, dtype=torch.float64)
    torch.testing.assert_close(wine.std(0, correction=0), one, rtol=0, atol=1e-6)
