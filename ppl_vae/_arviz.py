"""The one door to ArviZ, for its two lines 0.23 and 1.x: nothing else in the package imports it.

The two differ where it would not be noticed. ``from_dict`` takes its groups as keywords in 0.23 and as one
nested dictionary in 1.x; PSIS moved to ``arviz_stats``, where it negates its argument and raises where 0.23
returns infinity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from os import PathLike
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "MIN_DRAWS",
    "add_group",
    "from_netcdf",
    "group_names",
    "inference_data",
    "plot_ppc",
    "psis_khat",
    "to_netcdf",
]

MIN_DRAWS = 30
"""Fewer draws than this have no tail that both lines of ArviZ can fit (six draws, a fifth of the whole)."""

_TAIL = 5  # a generalized Pareto fit to fewer distinct draws says nothing; both lines of ArviZ stop there


def arviz() -> ModuleType:
    """Import ArviZ, without its announcement of the next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def is_one(module: ModuleType) -> bool:
    """Is this ArviZ 1.x?"""
    return int(module.__version__.split(".")[0]) >= 1


# -- Data ----------------------------------------------------------------------------------------------------


def inference_data(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Make an ``InferenceData`` (0.23) or a ``DataTree`` (1.x) of arrays.

    Args:
        groups: by group and variable; arrays begin with (chain, draw), those of ``observed_data`` do not.
        coords: labels by dimension name.
        dims: names of the dimensions after (chain, draw), by variable.

    A ``/`` in a site's name becomes a ``.``, since it separates groups in NetCDF.
    """
    module = arviz()
    clean = {group: {_name(k): v for k, v in variables.items()} for group, variables in groups.items()}
    names = {_name(k): list(v) for k, v in (dims or {}).items()}
    labels = {key: list(value) for key, value in (coords or {}).items()}
    if is_one(module):
        return module.from_dict(clean, coords=labels, dims=names)
    with warnings.catch_warnings():  # the predictive groups may have more draws than rows; that is no mistake here
        warnings.simplefilter("ignore", UserWarning)
        return module.from_dict(**clean, coords=labels, dims=names)


def add_group(
    idata: Any,
    group: str,
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]],
) -> None:
    """Add a group of arrays without chains and draws, each given as (names of its dimensions, values)."""
    import xarray

    used = {dim for dims, _ in variables.values() for dim in dims}
    labels = {dim: list(label) for dim, label in coords.items() if dim in used}
    dataset = xarray.Dataset({_name(k): (list(dims), values) for k, (dims, values) in variables.items()}, labels)
    if is_one(arviz()):
        idata[group] = xarray.DataTree(dataset)
    else:
        idata.add_groups({group: dataset}, warn_on_custom_groups=False)


def _name(site: str) -> str:
    return site.replace("/", ".")


def group_names(idata: Any) -> list[str]:
    """The names of the groups, for both lines of ArviZ."""
    groups = idata.groups
    return list(groups()) if callable(groups) else list(idata.children)


def to_netcdf(idata: Any, path: str | PathLike[str]) -> None:
    """Write to a NetCDF file, uncompressed: draws of floats hardly shrink, and it takes ten times longer."""
    if is_one(arviz()):
        idata.to_netcdf(path)
    else:
        idata.to_netcdf(str(path), compress=False)


def from_netcdf(path: str | PathLike[str]) -> Any:
    """Read what :func:`to_netcdf` wrote."""
    return arviz().from_netcdf(str(path))


# -- PSIS ----------------------------------------------------------------------------------------------------


def psis_khat(log_ratios: np.ndarray, *, resolution: float = 1e-9) -> np.ndarray:
    """The shape k of a generalized Pareto distribution fitted to the upper tail of importance ratios.

    Below 0.5 the ratios have a finite variance; up to 0.7 an average of so many is still practical; above 1
    it has no expectation that a sample would show.

    Args:
        log_ratios: log p(x, z) - log q(z), draws first, shape (S, N), nats.
        resolution: the relative error of the numbers. Ratios that spread by no more are constant: a perfect
            guide.

    Returns:
        shape (N,), float64. 0.0 for constant ratios, and where the whole tail is one value (a bounded ratio,
        as discrete latents have); inf where fewer than five draws stand above the rest, so that no tail can
        be fitted; nan for ratios that are NaN or +inf, and for fewer than ``MIN_DRAWS`` draws.

    Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry: "Pareto smoothed importance
    sampling", 2024.
    """
    log_ratios = np.asarray(log_ratios, dtype=np.float64)
    if log_ratios.ndim != 2:
        raise ValueError(f"psis_khat: log ratios of shape (S, N) are required, got {log_ratios.shape}")
    khat = np.full(log_ratios.shape[1], np.nan)
    if len(log_ratios) < MIN_DRAWS:
        return khat
    for n, ratios in enumerate(log_ratios.T):
        khat[n] = _khat(ratios, resolution)
    return khat


def _khat(ratios: np.ndarray, resolution: float) -> float:
    """k-hat of one datum, shape (S,): the degenerate tails are decided here, the others by ArviZ."""
    top = ratios.max()
    if np.isnan(top) or not np.isfinite(top):
        return float("nan")
    size = int(np.ceil(min(len(ratios) / 5, 3 * len(ratios) ** 0.5)))
    tail = np.partition(ratios, len(ratios) - size - 1)[-size - 1 :]
    cutoff = tail.min()
    if top - cutoff <= resolution * max(1.0, abs(top)):
        return 0.0
    if np.sum(tail > cutoff) < _TAIL:
        return float("inf")
    with np.errstate(all="ignore"):  # weights far below the greatest are zero, and that is right
        fitted = _psis_of(arviz())(ratios - top)
    return float("inf") if np.isnan(fitted) else fitted


@cache
def _psis_of(module: ModuleType) -> Callable[[np.ndarray], float]:
    """PSIS of this ArviZ as a function of log ratios of shape (S,) that returns k-hat."""
    if not is_one(module):
        return lambda ratios: float(np.asarray(module.psislw(ratios[None].copy())[1]).reshape(()))
    from arviz_stats.base import array_stats

    # 1.x takes the log likelihood of leave-one-out, minus the log ratio. Asked, not believed: a wrong sign
    # would fit the lower tail, and look good.
    probe = np.linspace(-3.0, 0.0, 4 * MIN_DRAWS) ** 3
    weights = array_stats.psislw(probe.copy())[0]
    sign = -1.0 if weights[0] > weights[-1] else 1.0
    return lambda ratios: float(array_stats.psislw(sign * ratios)[1])


# -- Plots ---------------------------------------------------------------------------------------------------


def plot_ppc(idata: Any, *, num_samples: int | None = None, **options: Any) -> Any:
    """Draw the posterior predictive check of this ArviZ: ``plot_ppc`` (0.23) or ``plot_ppc_dist`` (1.x).

    Returns the matplotlib ``Figure``, closed in pyplot, so that no figure is left behind.
    """
    import matplotlib.pyplot as plt

    module = arviz()
    if is_one(module):
        if num_samples is not None:
            options["num_samples"] = num_samples
        figure = module.plot_ppc_dist(idata, backend="matplotlib", **options).viz["figure"].item()
    else:
        with warnings.catch_warnings():  # 0.23 uses what the newest matplotlib calls deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            axes = module.plot_ppc(idata, num_pp_samples=num_samples, show=False, **options)
        figure = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()[0].figure
    plt.close(figure)
    return figure
