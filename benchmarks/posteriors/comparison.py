"""Ours and the peers on one posterior: seconds to within 0.1 nat of the best full-rank ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from posteriors.normal import Judge, Normal, best_normal, in_order
from posteriors.oracle import LogDensity
from posteriors.ours import Result
from posteriors.peers import PEERS
from posteriors.posterior import Data, Posterior, Reference
from posteriors.race import WITHIN, Race, Unavailable

LEAST_DRAWS, MOST_DRAWS, NUMBERS = 4_096, 32_768, 2_000_000
"""Of a look at a run: as many draws as make two million numbers, so that it takes a tenth of a second."""


@dataclass
class Line:
    """One method: when it was there (None: not before the cap), what of that was compilation, where it ended."""

    method: str
    seconds: float | None = None
    compile_seconds: float = 0.0
    ran: float = 0.0
    last: float = math.nan
    note: str = ""
    race: Race | None = None

    def row(self) -> dict[str, Any]:
        """For a file."""
        last = self.last if math.isfinite(self.last) else None
        return {**{k: getattr(self, k) for k in ("seconds", "compile_seconds", "ran", "note")}, "elbo": last}


@dataclass
class Comparison:
    """All methods on one posterior; ``best`` is the highest ELBO of any, nats."""

    best: float
    optimum: float
    cap: float
    lines: dict[str, Line] = field(default_factory=dict)

    def counted(self, method: str) -> float:
        """Seconds, a run that did not get there counting as the cap."""
        found = self.lines[method].seconds
        return self.cap if found is None else found

    def running(self, method: str) -> float:
        """The same less what was compiled; the cap is the cap."""
        line = self.lines[method]
        return self.cap if line.seconds is None else max(line.seconds - line.compile_seconds, 0.0)

    @property
    def ratio(self) -> tuple[float, str] | None:
        """The best stochastic peer's seconds over ours, and which it is; None without a peer."""
        return self.ratio_of(self.counted)

    def ratio_of(self, seconds: Callable[[str], float]) -> tuple[float, str] | None:
        """The same by another count of the peers' seconds."""
        peers = [name for name, line in self.lines.items() if line.race is not None]
        if not peers:
            return None
        fastest = min(peers, key=seconds)
        return seconds(fastest) / self.counted("ours"), fastest

    def row(self) -> dict[str, Any]:
        """For a file."""
        ratio, bare = self.ratio, self.ratio_of(self.running)
        return {
            "best": self.best,
            "optimum": self.optimum,
            "cap": self.cap,
            "ratio": ratio[0] if ratio else None,
            "ratio_without_compiling": bare[0] if bare else None,
            "fastest": ratio[1] if ratio else None,
            "methods": {name: line.row() for name, line in self.lines.items()},
        }


def normal_of(posterior: Posterior, guide: Any) -> Normal:
    """The full-rank normal that Pyro's autoguide stands for, in the reference's coordinates."""
    with torch.no_grad():
        found = guide.get_posterior()
        return in_order(posterior, list(guide._unconstrained_shapes), found.loc, found.scale_tril)


def compare(
    posterior: Posterior, data: Data, reference: Reference, ours: Result | None, methods: Sequence[str], cap: float
) -> Comparison:
    """Run the peers, one after the other, on common noise and under the cap; ``ours`` is None where it broke."""
    log_density = LogDensity(posterior, data)
    draws = max(LEAST_DRAWS, min(MOST_DRAWS, NUMBERS // len(data[-1])))
    judge = Judge(log_density, len(reference.mean), draws=draws)
    optimum = judge.elbo(best_normal(posterior, log_density, reference))
    own = Line("ours", note="no fit", last=-math.inf)
    if ours is not None:
        own = Line("ours", ran=ours.processor, last=judge.elbo(normal_of(posterior, ours.fit.pair.guide)))
    lines = {"ours": own}
    for method in methods:
        lines[method] = run(posterior, data, method, Race(judge, optimum, cap))
    ends = [line.last for line in lines.values() if math.isfinite(line.last)]
    best = max([optimum, *ends])
    own.seconds = own.ran if own.last >= best - WITHIN else None
    for line in lines.values():
        if line.race is not None:
            line.seconds = line.race.reached(best)
    return Comparison(best, optimum, cap, lines)


def run(posterior: Posterior, data: Data, method: str, race: Race) -> Line:
    """One peer; an error of its own ends the run, and is told."""
    note = ""
    try:
        PEERS[method](posterior, data, race)
    except Unavailable as error:
        return Line(method, note=str(error))
    except Exception as error:  # a peer that breaks on a posterior has not got there
        note = first_line(error)
        race.seconds.append(race.now)
        race.elbos.append(-math.inf)
    last = race.elbos[-1] if race.elbos else -math.inf
    return Line(method, None, race.compile_seconds, race.seconds[-1] if race.seconds else 0.0, last, note, race)


def first_line(error: Exception) -> str:
    """An error in a line of a table."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:160]
