"""Which columns of a table are modelled, and which are names and classes beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Roles:
    """What each column of one table is for, by its place.

    Args:
        features: the columns that are modelled, in the order of ``keep``, or else of the table.
        label: the column of classes; None where there is none.
        index: the column of the names of rows; None where they are numbered.
    """

    features: tuple[int, ...]
    label: int | None = None
    index: int | None = None


@dataclass(frozen=True)
class Columns:
    """A choice among the columns of a table, by name; by number ("0", "1", ...) where they have none.

    Args:
        keep: those that are modelled; empty for all that are nothing else. A text that is no column's name is taken
            apart at its commas: ``("a,b",)`` is ``("a", "b")``.
        drop: those that are left out, likewise.
        label: classes, kept beside the model.
        index: the names of the rows.

    >>> Columns(drop=("id,date",), label="species").roles(["id", "date", "width", "species"])
    Roles(features=(2,), label=3, index=None)
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    label: str | None = None
    index: str | None = None

    def roles(self, names: Sequence[str]) -> Roles:
        """What each column is for.

        Raises:
            ValueError: there is no such column (with the nearest name), one has two roles, or none is left.
        """
        label, index = (None if name is None else _place(name, names) for name in (self.label, self.index))
        dropped = set(_places(self.drop, names))
        kept = _places(self.keep, names) or [
            i for i in range(len(names)) if i not in dropped and i not in (label, index)
        ]
        for place in (*kept, *((label,) if label is not None else ())):
            roles = [
                role
                for role, places in (("keep", kept), ("drop", dropped), ("label", [label]), ("index", [index]))
                if place in places
            ]
            if len(roles) > 1:
                raise ValueError(f"columns: one role a column is required, {names[place]!r} has {' and '.join(roles)}")
        if not kept:
            raise ValueError(f"columns: at least one must be left to be modelled, of {', '.join(names)} none is")
        return Roles(tuple(kept), label, index)


def _places(texts: Iterable[str], names: Sequence[str]) -> list[int]:
    """The columns that texts name, each once."""
    found = [place for text in texts for place in _named(text, names)]
    return list(dict.fromkeys(found))


def _named(text: str, names: Sequence[str]) -> list[int]:
    parts = [text] if text in names else [part.strip() for part in text.split(",") if part.strip()]
    return [_place(part, names) for part in parts]


def _place(name: str, names: Sequence[str]) -> int:
    if name not in names:
        near = get_close_matches(name, names, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {shortened(names)}"
        raise ValueError(f"columns: there is no column {name!r}; {hint}")
    return list(names).index(name)


def shortened(words: Sequence[str], most: int = 12) -> str:
    """Some words with commas between them, and how many more there are.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
