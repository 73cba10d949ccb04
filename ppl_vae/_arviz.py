"""The one door to ArviZ, for its two lines 0.23 and 1.x: nothing else in the package imports it.

The two differ where it would not be noticed. ``from_dict`` takes its groups as keywords in 0.23 and as one
nested dictionary in 1.x; ``plot_ppc`` has another name. PSIS differs in its numbers too, and is our own (``_psis.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import ModuleType
from typing import Any, Literal

import numpy as np

__all__ = [
    "add_group",
    "chain_statistics",
    "compacted",
    "from_netcdf",
    "group_names",
    "inference_data",
    "note",
    "plot_ppc",
    "plot_test_quantities",
    "to_netcdf",
]


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


def note(idata: Any, group: str, attributes: Mapping[str, str]) -> None:
    """Add attributes to a group."""
    idata[group].attrs.update(attributes)


KEPT_WHOLE = ("log_likelihood", "sample_stats")
"""The groups of log densities: their differences count, and are small beside them."""


def compacted(idata: Any) -> Any:
    """Make values of 64 bits ones of 32, in place, but for log densities; returns what was given."""
    narrow = {"float64": "float32", "int64": "int32"}
    for group in group_names(idata):
        if group in KEPT_WHOLE:
            continue
        dataset = idata[group].to_dataset() if is_one(arviz()) else idata[group]
        kinds = {name: narrow[str(v.dtype)] for name, v in dataset.data_vars.items() if str(v.dtype) in narrow}
        small = dataset.assign({name: dataset[name].astype(kind) for name, kind in kinds.items()})
        if is_one(arviz()):
            idata[group].dataset = small
        else:
            setattr(idata, group, small)
    return idata


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


# -- Chains --------------------------------------------------------------------------------------------------


def chain_statistics(draws: np.ndarray, probabilities: Sequence[float]) -> dict[str, np.ndarray]:
    """What the draws of chains say of themselves, entry by entry.

    Args:
        draws: (chains, draws, D), at least four draws a chain.
        probabilities: of the quantiles whose errors are asked for.

    Returns:
        ``rhat``, ``ess_bulk``, ``ess_tail``, and the Monte Carlo errors ``mcse_mean``, ``mcse_sd``, each (D,), and
        ``mcse_quantile``, (Q, D).

    Aki Vehtari, Andrew Gelman, Daniel Simpson, Bob Carpenter, Paul-Christian Bürkner: "Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC", 2021.
    """
    module = arviz()
    dataset = module.convert_to_dataset({"draws": draws})

    def found(statistic: str, **options: Any) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # of entries that are constant
            return np.asarray(getattr(module, statistic)(dataset, **options)["draws"].values, dtype=np.float64)

    errors = [found("mcse", method="quantile", prob=float(p)) for p in probabilities]
    return {
        "rhat": found("rhat"),
        "ess_bulk": found("ess", method="bulk"),
        "ess_tail": found("ess", method="tail"),
        "mcse_mean": found("mcse", method="mean"),
        "mcse_sd": found("mcse", method="sd"),
        "mcse_quantile": np.stack(errors),
    }


# -- Plots ---------------------------------------------------------------------------------------------------


Kind = Literal["posterior", "prior"]


def plot_ppc(idata: Any, *, group: Kind = "posterior", num_samples: int | None = None, **options: Any) -> Any:
    """Draw the predictive check of this ArviZ: ``plot_ppc`` (0.23) or ``plot_ppc_dist`` (1.x).

    Args:
        idata: with ``observed_data`` and ``posterior_predictive``, or ``prior_predictive``.
        group: whose data are drawn.
        num_samples: how many of them.
        options: for ArviZ's function.

    Returns:
        the matplotlib ``Figure``, closed in pyplot, so that no figure is left behind.
    """
    module = arviz()
    if is_one(module):
        if num_samples is not None:
            options["num_samples"] = num_samples
        data: dict[str, Any] = {"observed_dist": {}}  # which it leaves out of prior checks
        options = {"backend": "matplotlib", "group": f"{group}_predictive", "visuals": data, **options}
        return _closed(module.plot_ppc_dist(idata, **options))
    options = {"num_pp_samples": num_samples, "group": group, "observed": True, "show": False, **options}
    return _closed(_quietly(module.plot_ppc, idata, **options))


def plot_test_quantities(idata: Any, *, group: Kind = "posterior", **options: Any) -> Any:
    """Draw numbers of replicated data beside those of the data: ``plot_bpv`` (0.23) or ``plot_ppc_tstat`` (1.x).

    Args:
        idata: the numbers as variables: (chain, draw) in ``posterior_predictive``, or ``prior_predictive``, and ()
            in ``observed_data``.
        group: which of these.
        options: for ArviZ's function.

    Returns:
        the matplotlib ``Figure``, closed in pyplot.
    """
    module = arviz()
    if is_one(module):  # the mean of a single number is itself
        shown: dict[str, Any] = {"title": {}, "observed_tstat": {}}
        options = {"backend": "matplotlib", "group": f"{group}_predictive", "visuals": shown, **options}
        return _closed(module.plot_ppc_tstat(idata, t_stat="mean", **options))
    options = {"kind": "t_stat", "group": group, "show": False, **options}
    return _closed(_quietly(module.plot_bpv, idata, t_stat="mean", **options))


def _quietly(plot: Callable[..., Any], idata: Any, **options: Any) -> Any:
    with warnings.catch_warnings():  # 0.23 uses what the newest matplotlib calls deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        return plot(idata, **options)


def _closed(made: Any) -> Any:
    """The figure of what a plot returns: axes (0.23), or a collection of plots (1.x)."""
    import matplotlib.pyplot as plt

    if hasattr(made, "viz"):
        figure = made.viz["figure"].item()
    else:
        figure = np.atleast_1d(np.asarray(made, dtype=object)).ravel()[0].figure
    plt.close(figure)
    return figure
