"""Minima, and how far from one a point is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppl_vae.inference.deterministic.minimize import WORST, minimize, newton_decrement


def matrix(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


def quadratic(h, at=None):
    at = np.zeros(len(h)) if at is None else at
    return lambda v: (float((v - at) @ h @ (v - at)) / 2, h @ (v - at))


def decrement(function, v, enough=1e-3):
    return newton_decrement(function, v, function(v)[1], enough=enough)


SPECTRA = {
    "one": np.ones(12),
    "two": np.array([1.0] * 11 + [1e-6]),
    "three": np.array([1.0, 1.0, 1e-3, 1e-6]),
    "a million": np.logspace(-3, 3, 20),
    "near one": np.linspace(0.5, 2.0, 40),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_a_newton_step_would_gain(name, seed):
    """At points of every kind: not less where there is something to gain, nor more where curvatures are not many."""
    values, rng = SPECTRA[name], np.random.default_rng(seed)
    h = matrix(values, seed)
    along = np.linalg.eigh(h)[1] @ (rng.normal(size=len(h)) * np.linalg.eigvalsh(h) ** -rng.choice([0.0, 0.5, 1.0]))
    along *= rng.choice([1e-3, 1e-1, 1.0])
    function = quadratic(h)
    exact = function(along)[0]  # of a quadratic, all that there is to gain
    found = decrement(function, along)
    assert found >= 0.98 * exact or exact < 5e-3
    if name in ("one", "two", "near one"):
        assert found <= 1.02 * exact + 1e-3


def test_a_nearly_flat_direction_is_seen_behind_a_steep_one():
    """The gradient points along the steep one, a small part of what is to be gained."""
    h = np.diag([1.0, 1e-6])
    for gradient in (np.array([0.1, 1e-3]), np.array([0.04, 1e-3])):
        v = gradient / np.diag(h)
        assert decrement(quadratic(h), v) == pytest.approx(float(gradient @ v) / 2, rel=0.02)


@pytest.mark.parametrize("values", [[1.0, -1.0], [1.0, 2.0, -1e-3], [0.0, 1.0]])
def test_it_is_infinite_where_the_function_does_not_curve_up(values):
    h = matrix(np.array(values))
    v = h @ np.ones(len(h)) + np.linalg.eigh(h)[1].sum(1)
    function = quadratic(h) if min(values) < 0 else (lambda v: (float(v[0]), np.eye(len(h))[0]))
    assert math.isinf(decrement(function, v))


def test_it_does_not_depend_on_units():
    h, units = matrix(np.linspace(1, 3, 5)), np.logspace(-2, 2, 5)
    v = np.random.default_rng(0).normal(size=5)
    assert decrement(quadratic(h), v) == pytest.approx(
        decrement(quadratic(h * np.outer(units, units)), v / units), 0.05
    )


def test_it_is_infinite_at_the_edge_of_what_is_a_number():
    """Behind the edge the gradient is said to be 0, which differences must not take for curvature."""

    def function(v):
        return (WORST, np.zeros(1)) if v[0] > 1.0 else (-float(v[0]), -np.ones(1))

    at = np.array([1.0 - 1e-6])
    assert math.isinf(newton_decrement(function, at, function(at)[1], enough=1e-3))
    assert math.isinf(minimize(function, np.zeros(1), max_iter=100, tol=0.01).decrement)


def test_a_function_that_is_no_number_has_no_minimum():
    found = minimize(lambda v: (WORST, np.zeros(2)), np.zeros(2), max_iter=10, tol=0.01)
    assert math.isinf(found.decrement)


def test_at_the_minimum_nothing_is_left():
    assert decrement(quadratic(np.eye(3)), np.zeros(3)) == 0.0


def rosenbrock(v):
    a, b = v[1:] - v[:-1] ** 2, 1 - v[:-1]
    gradient = np.zeros_like(v)
    gradient[:-1] = -400 * v[:-1] * a - 2 * b
    gradient[1:] += 200 * a
    return float((100 * a**2 + b**2).sum()), gradient


@pytest.mark.parametrize(
    ("function", "start", "at"),
    [
        (quadratic(matrix(np.logspace(-3, 3, 30)), np.full(30, 2.0)), np.zeros(30), np.full(30, 2.0)),
        (rosenbrock, np.full(6, -1.0), np.ones(6)),
    ],
)
def test_minima_are_found_and_the_function_is_left_there(function, start, at):
    seen = []

    def watched(v):
        seen.append(np.array(v))
        return function(v)

    found = minimize(watched, start, max_iter=500, tol=1e-4)
    assert found.decrement <= 1e-4
    assert found.value == pytest.approx(function(at)[0], abs=2e-4)
    assert np.array_equal(seen[-1], found.v)


def test_a_run_that_is_cut_short_says_how_far_it_is():
    found = minimize(rosenbrock, np.array([-1.0, 1.0]), max_iter=2, tol=1e-4)
    assert found.value > 0.01
    assert found.decrement > 0.1 * found.value
