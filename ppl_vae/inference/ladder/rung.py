"""One rung of the ladder: a family of guides, and what was found of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ppl_vae.diagnostics.certificate import Certificate, nats

__all__ = ["Rung"]


@dataclass(frozen=True)
class Rung:
    """What a family of guides is worth here.

    Attributes:
        name: of the family: "mean field", "full rank", "low rank", "flow".
        guide: the guide's class.
        elbo, elbo_error: on fresh draws, nats; None: it was not tried.
        log_evidence: by importance sampling from it, nats.
        khat: of fresh draws.
        seconds: that it took, certificate and all.
        given: is its certificate given? None: it was not tried.
        why: it was not tried, or its certificate not given.
    """

    name: str
    guide: str
    elbo: float | None = None
    elbo_error: float | None = None
    log_evidence: float | None = None
    khat: float | None = None
    seconds: float = 0.0
    given: bool | None = None
    why: str = ""

    @classmethod
    def of(cls, name: str, guide: str, certificate: Certificate, seconds: float) -> Rung:
        """A rung that was tried."""
        known: Mapping[str, Any] = Certificate.of(certificate.plain()).numbers
        why = ", ".join(line.what for line in certificate.failed)
        numbers = {key: known.get(key) for key in ("elbo", "elbo_error", "log_evidence", "khat")}
        return cls(name, guide, **numbers, seconds=seconds, given=certificate.given, why=why)

    def plain(self) -> dict[str, Any]:
        """All of it as a plain tree."""
        return asdict(self)

    def __str__(self) -> str:
        if self.given is None:
            return f"{self.name} not tried ({self.why})"
        elbo = "no finite ELBO" if self.elbo is None else nats(self.elbo, self.elbo_error)
        khat = "" if self.khat is None else f", k-hat {self.khat:.2f}"
        return f"{self.name} {elbo}{khat}, {self.seconds:.1f} s, {'given' if self.given else f'not given ({self.why})'}"
