"""What the dimensions of draws are called, and what labels stand along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ppl_vae.data.headers import Header
    from ppl_vae.data.source import Source
    from ppl_vae.pair import Pair, Site

ROWS = "datum"
"""By this word a caller may name the rows whatever their plate is called; and so they are called without a plate."""

TAKEN = frozenset({"chain", "draw"})
"""ArviZ's own. (No site is called as a plate is: Pyro refuses it.)"""


@dataclass(frozen=True)
class Names:
    """The names of the dimensions of a pair's sites.

    Args:
        sites: the pair's latent and observed sites.
        seen: those that are observed.
        datum: the dimension of the rows.
        header: the names that the data bring along.
        given: the caller's names by site, without that of the rows.
    """

    sites: Mapping[str, Site]
    seen: frozenset[str]
    datum: str
    header: Header
    given: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, pair: Pair, header: Header, dims: Mapping[str, Sequence[str]]) -> Names:
        """The names, by the plates of the pair, the data, and what the caller says.

        Raises:
            ValueError: ``dims`` names something that is no site.
        """
        sites = {**pair.observed, **pair.latents}
        for name in dims:
            if name not in sites:
                raise ValueError(
                    f"to_inference_data: dims names {name!r}, which is no site; the sites are {sorted(sites)}"
                )
        plate = pair.data_plate
        datum = plate if plate is not None and plate not in TAKEN else ROWS
        return cls(sites, frozenset(pair.observed), datum, header, dims)

    def labels(self, rows: Source, coords: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """The labels by dimension: of the rows, of the columns of data frames, and those of the caller."""
        found: dict[str, Sequence[Any]] = {}
        if len(rows):
            numbers = list(range(len(rows))) if rows.index is None else rows.index.tolist()
            index = self.header.index
            found[self.datum] = numbers if index is None or len(index) != len(rows) else index
        for name, columns in self._columns_by_site().items():
            found[self._event(name, self.sites[name], 1)[0]] = columns
        return found | {self.datum if name == ROWS else name: labels for name, labels in coords.items()}

    def of_variables(self, groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, list[str]]:
        """The names of the dimensions after (chain, draw) of every variable.

        Raises:
            ValueError: the caller names another number of dimensions.
        """
        names: dict[str, list[str]] = {}
        uneven = self._uneven(groups)
        for group, variables in groups.items():
            for name, table in variables.items():
                rank = table.ndim - (0 if group == "observed_data" else 2)
                if group == "sample_stats":
                    names[name] = [self.datum][:rank]
                elif group != "log_likelihood":
                    names[name] = self._of_site(name, rank, uneven)
                else:  # has no dimensions of the event; what the other groups say of the site fits as well
                    names.setdefault(name, [self.datum][:rank])
        return names

    def _uneven(self, groups: Mapping[str, Mapping[str, np.ndarray]]) -> frozenset[str]:
        """The plates that have one size at one site and another at another: no dimension can be called by them."""
        sizes: dict[str, set[int]] = {}
        for group, variables in groups.items():
            for name, table in variables.items() if group not in ("sample_stats", "log_likelihood") else ():
                first = (0 if group == "observed_data" else 2) + self.sites[name].is_local
                for plate, size in zip(self.sites[name].plates, table.shape[first:], strict=False):
                    sizes.setdefault(plate, set()).add(size)
        return frozenset(plate for plate, found in sizes.items() if len(found) > 1)

    def _of_site(self, name: str, rank: int, uneven: frozenset[str] = frozenset()) -> list[str]:
        site = self.sites[name]
        lead = [self.datum] if site.is_local else []
        size = rank - len(lead)
        own = list(self.given[name]) if name in self.given else self._default(name, site, size, uneven)
        if site.is_local and own[:1] in ([self.datum], [ROWS]):
            own = own[1:]
        if len(own) != size:
            raise ValueError(
                f"to_inference_data: dims[{name!r}] must name {size} dimensions "
                f"after {' and '.join(['draw', *lead])}, got {own}"
            )
        return lead + own

    def _default(self, name: str, site: Site, size: int, uneven: frozenset[str]) -> list[str]:
        """Plates by their names, what is left by the name of the site and a number."""
        taken = {*TAKEN, self.datum, *uneven}
        plain = [f"{name.replace('/', '.')}_dim_{i}" for i in range(size)]
        plates = [plate if plate not in taken else plain[i] for i, plate in enumerate(site.plates[:size])]
        return plates + plain[len(plates) :]

    def _event(self, name: str, site: Site, size: int) -> list[str]:
        """The names of the dimensions of one datum."""
        return self._of_site(name, size + site.is_local)[int(site.is_local) :]

    def _columns_by_site(self) -> dict[str, list[str]]:
        """The columns of a data frame belong to the site of that name, or else to the one observed site that fits."""
        found = {}
        for part, columns in self.header.columns.items():
            fitting = [
                n
                for n, s in self.sites.items()
                if n in self.seen and s.is_local and _shape_after_rows(s) == (len(columns),)
            ]
            named = [n for n in fitting if n == part]
            if len(chosen := named or fitting) == 1:
                found[chosen[0]] = columns
        return found


def _shape_after_rows(site: Site) -> tuple[int, ...]:
    return tuple(site.event_shape) if not site.plates else ()
