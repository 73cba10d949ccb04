r"""A pair at fixed base noise: an ordinary smooth function of its parameters, and of its latents.

A guide whose draws are :math:`u = m_\phi + C_\phi \varepsilon` with :math:`\varepsilon \sim N(0, I)`, carried onto the
latents by maps t without parameters, is run at noise that is handed to it, or at u. Over u the model has the density

.. math:: \log p(x, u) = \log p(x, t(u)) + \log |\det dt/du|,

and :math:`\frac{1}{S} \sum_s [\log p(x, u_s) - \log q(u_s)]` is the pair's own ELBO at S fixed draws.

Ryan Giordano, Martin Ingram, Tamara Broderick: "Black Box Variational Inference with a Deterministic Objective:
Faster, More Accurate, and Even More Black Box", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae._random import isolated_rng
from ppl_vae.distributions import unwrap
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.law import FlowLaw, Law
from ppl_vae.pair.points import is_point
from ppl_vae.pair.scope import validation

if TYPE_CHECKING:
    from ppl_vae.data.rows import Batch
    from ppl_vae.pair.execution import Execution
    from ppl_vae.pair.pair import Pair

__all__ = ["FixedNoise", "Law", "Place", "Placed", "require_fixed_noise"]

NOT_UNDER_VMAP = (RuntimeError, ValueError, TypeError, IndexError, KeyError)
"""What a run may raise under ``torch.vmap`` that goes alone: an error of the pair comes again then, explained."""
MAX_VALUES, MAX_ELEMENTS = 500_000, 3_000_000
"""So many values of sites at once in one run, which a cache holds, and so many numbers in any tensor on the way; more
draws are run in blocks."""


class Place(Messenger):
    """Give the guide's normal sites their values: those of the noise, or of u."""

    def __init__(self, given: Mapping[str, Tensor], *, as_noise: bool, lead: int) -> None:
        super().__init__()
        self.given, self.as_noise, self.lead = given, as_noise, lead
        self.laws: dict[str, Law] = {}
        self.u: dict[str, Tensor] = {}
        self.log_dets: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.given or msg["done"] or msg["is_observed"] or name in self.laws:
            return
        law = Law.of(msg["fn"], lead=self.lead)
        if law is None:
            raise RuntimeError(f"FixedNoise: {name!r} is no normal law in this run, though it was in the first")
        u = law.place(self.given[name]) if self.as_noise else self.given[name].reshape(law.shape)
        self.laws[name], self.u[name] = law, u
        msg["value"], self.log_dets[name] = law.value(u)
        msg["done"] = True


@dataclass(frozen=True)
class Placed:
    """S draws at given noise or at given u.

    Attributes:
        log_p: (S,) log p(x, u), with the weights of ``poutine.scale``, nats.
        log_qs: (S, W) log q(u) with the guide's spread times each of W widths, nats; the first is 1.
        u: (S, D), the guide's sites side by side.
    """

    log_p: Tensor
    log_qs: Tensor
    u: Tensor

    @property
    def log_q(self) -> Tensor:
        """(S,) log q(u), nats."""
        return self.log_qs[:, 0]


class _Largest(TorchFunctionMode):
    """How many numbers the largest tensor has that a run makes. A transpose of the data is none: it is a view."""

    numel = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.numel() > self.numel and not _is_view_of(found, args):
            self.numel = found.numel()
        return found


def _is_view_of(found: Tensor, args: Iterable[Any]) -> bool:
    memory = _memory(found)
    return memory is not None and any(isinstance(arg, Tensor) and _memory(arg) == memory for arg in args)


def _memory(tensor: Tensor) -> int | None:
    """Where its numbers begin; a sparse tensor and one under vmap have no such place."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return None


class FixedNoise:
    """The runs of a pair at noise that is handed to it; ask :func:`require_fixed_noise` first.

    Args:
        pair: the pair; its parameters keep their gradients.
        batch: all data.

    Attributes:
        vectorized: are draws an outermost plate of one run? Else each is a run of its own, and ``torch.vmap`` makes
            one of them.
        laws: of each normal site of the guide, in its order.
        sizes, noise_sizes: how many numbers of u, and of noise, each has for one draw; in all D and ``noise_dim``.
    """

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.pair, self.batch = pair, batch
        with self.scope(), torch.no_grad():
            self.vectorized = pair.vectorizes(batch)
            self.laws = laws_of(pair, batch)
            with _Largest() as largest:
                trace = pair.run(batch).model_trace
        self._values = sum(torch.as_tensor(site["value"]).numel() for _, site in sample_sites(trace))
        self._largest = largest.numel
        self.sizes = {name: law.size for name, law in self.laws.items()}
        self.noise_sizes = {name: law.noise_size for name, law in self.laws.items()}

    @property
    def dim(self) -> int:
        """D, the numbers of u."""
        return sum(self.sizes.values())

    @property
    def noise_dim(self) -> int:
        """How many numbers of noise one draw takes."""
        return sum(self.noise_sizes.values())

    @property
    def block(self) -> int:
        """How many draws one run may hold."""
        return max(2, min(MAX_VALUES // max(1, self._values), MAX_ELEMENTS // max(1, self._largest)))

    @property
    def is_small(self) -> bool:
        """Is a run so small that a second thread of the CPU costs more than it saves?"""
        return self._largest <= MAX_ELEMENTS

    def laws_now(self) -> dict[str, Law]:
        """The laws of one draw at the parameters as they are; call it inside :meth:`scope`."""
        with isolated_rng(0, self.pair.device):
            return laws_of(self.pair, self.batch)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of u under the guide's laws as they are, each site by itself."""
        with self.scope(), torch.no_grad():
            laws = list(self.laws_now().values())
        means = [law.base.mean.reshape(-1) for law in laws]
        return torch.cat(means), torch.block_diag(*(law.covariance for law in laws))

    @contextmanager
    def scope(self) -> Iterator[None]:
        """The pair's, its modules in evaluation mode, and no checks of values: a search may look anywhere."""
        noise, still = isolated_rng(0, self.pair.device), self.pair.mode(training=False)
        with self.pair.scope(), noise, still, validation(False):
            yield

    def at_noise(self, noise: Tensor, widths: Sequence[float] = (1.0,)) -> Placed:
        """The guide's draws of standard normal noise, (S, noise_dim); call it inside :meth:`scope`.

        Noise that is ``width`` times as wide makes draws of the guide with that spread; ``widths`` says at which they
        are scored.
        """
        parts = noise.split(list(self.noise_sizes.values()), -1)
        given = dict(zip(self.noise_sizes, parts, strict=True))
        return self._run(given, len(noise), as_noise=True, widths=widths)

    def at(self, u: Tensor) -> Tensor:
        """Log p(x, u) at u (S, D), (S,) nats; call it inside :meth:`scope`."""
        if len(u) == 1:  # a plate of one draw is no axis for Pyro's checks of shapes
            return self.at(u.expand(2, -1))[:1]
        parts = u.split(list(self.sizes.values()), -1)
        return self._run(dict(zip(self.sizes, parts, strict=True)), len(u), as_noise=False).log_p

    def heights(self, u: Tensor) -> Tensor:
        """Log p(x, u) without derivatives, (S,): minus infinity where it is no number, or where a factorization fails.

        One matrix of many that has no Cholesky factor is an error of the whole run, so halves are tried, down to it.
        """
        if len(u) > self.block:
            return torch.cat([self.heights(part) for part in u.split(self.block)])
        try:
            with torch.no_grad():
                found = self.at(u)
        except torch.linalg.LinAlgError:
            if len(u) == 1:
                return u.new_full((1,), -math.inf)
            return torch.cat([self.heights(part) for part in u.tensor_split(2)])
        return torch.where(found.isnan() | found.isposinf(), -math.inf, found)

    def _run(
        self, given: Mapping[str, Tensor], count: int, *, as_noise: bool, widths: Sequence[float] = (1.0,)
    ) -> Placed:
        if self.vectorized:
            return self._placed(given, count, as_noise, widths)
        each = torch.vmap(partial(self._placed, count=None, as_noise=as_noise, widths=widths), randomness="same")
        return Placed(*each(given))

    def _placed(
        self, given: Mapping[str, Tensor], count: int | None, as_noise: bool, widths: Sequence[float] = (1.0,)
    ) -> Any:
        """One run, of ``count`` draws, or of one without an axis of draws (as a tuple, for ``torch.vmap``)."""
        with Place(given, as_noise=as_noise, lead=0 if count is None else 1) as place:
            run = self.pair.run(self.batch, num_particles=count)
        log_p = _log_p(run, place, count)
        log_q = torch.stack(
            [
                torch.stack([law.log_q(place.u[name], width) for name, law in place.laws.items()]).sum(0)
                for width in widths
            ],
            -1,
        )
        shape = (-1,) if count is None else (count, -1)
        u = torch.cat([u.reshape(shape) for u in place.u.values()], -1)
        return (log_p, log_q, u) if count is None else Placed(log_p, log_q, u)


def _log_p(run: Execution, place: Place, count: int | None) -> Tensor:
    """Log p(x, u), (S,) or (): the model's sites, less what the guide's others count, plus the volume of the maps."""
    terms = [score.weighted_log_prob for score in run.score_model().values()]
    terms += [-score.weighted_log_prob for name, score in run.score_guide().items() if name not in place.laws]
    volumes = list(place.log_dets.values())
    if count is None:
        return torch.stack([term.sum() for term in (*terms, *volumes)]).sum()
    whole = [term.sum(-1) if term.dim() > 1 else term.expand(count) for term in (*terms, *volumes)]
    return torch.stack(whole).sum(0)


def laws_of(pair: Pair, batch: Batch) -> dict[str, Law]:
    """The normal laws of a run of the guide alone, by site."""
    trace = poutine.trace(pair.runner.guide).get_trace(batch)
    laws = {name: Law.of(site["fn"]) for name, site in sample_sites(trace) if not site["is_observed"]}
    return {name: law for name, law in laws.items() if law is not None}


def require_fixed_noise(pair: Pair, batch: Batch) -> None:
    """Raise ValueError, with the reason, where fixed noise does not make the ELBO of a pair a smooth function.

    Raises:
        ValueError: a latent is discrete; a draw of the guide is not normal, or carried on by maps with parameters (a
            flow), or of no latent, or masked; a location or a scale follows from the data (an amortized guide); draws
            cannot be made in one run; rows are subsampled; nothing is drawn.
    """
    sites = pair.sites
    discrete = [name for name, site in pair.latents.items() if site.is_discrete]
    if discrete or sites.enumerated:
        raise ValueError(f"the latent {', '.join(map(repr, discrete or sorted(sites.enumerated)))} is discrete")
    if masked := [name for name, site in pair.latents.items() if site.is_masked]:
        raise ValueError(f"entries of the latent {', '.join(map(repr, masked))} may be masked")
    if sites.counts_volume or sites.is_exact:
        raise ValueError("the guide draws nothing whose noise could be fixed")
    if sites.subsampled or (pair.layout.axis is not None and pair.layout.axis.subsampled):
        raise ValueError("a plate draws a subsample of its own")
    with pair.scope(), isolated_rng(0, pair.device), pair.mode(training=False), torch.no_grad():
        reason = _of_sites(pair, batch) or _of_data(pair, batch)
        reason = reason or _of_many(pair, batch)
    if reason:
        raise ValueError(reason)


def _of_many(pair: Pair, batch: Batch) -> str:
    """Can many draws be made in one run, by a plate or by ``torch.vmap``?"""
    noise = FixedNoise(pair, batch)
    if noise.vectorized:
        return ""
    draws = torch.randn(3, noise.noise_dim, dtype=pair.dtype, device=pair.device)
    parts = draws.split(list(noise.noise_sizes.values()), -1)
    given = dict(zip(noise.noise_sizes, parts, strict=True))
    try:
        with validation(False):  # torch's checks of arguments branch on values, which vmap cannot
            together = noise.at_noise(draws).log_p
            alone = [noise._placed({n: v[i] for n, v in given.items()}, None, True)[0] for i in range(3)]
    except NOT_UNDER_VMAP as error:
        if is_out_of_memory(error):
            raise
        return f"many draws of this pair cannot be made in one run ({str(error).splitlines()[0]})"
    if not torch.allclose(together, torch.stack(alone), rtol=1e-4, equal_nan=True):
        return "many draws in one run have not the densities that they have alone"
    return ""


def _of_sites(pair: Pair, batch: Batch) -> str:
    """What stands against it in the guide's sites."""
    trace = poutine.trace(pair.runner.guide).get_trace(batch)
    drawn = [(n, s) for n, s in sample_sites(trace) if not s["is_observed"] and has_density(s)]
    spread = [(n, s) for n, s in drawn if not is_point(s["fn"])]
    if missing := [name for name in pair.latents if name not in trace.nodes]:
        return f"the guide has no {', '.join(map(repr, missing))}, which the model draws"
    for name, site in spread:
        if name not in pair.latents and not pair.sites.feeds.get(name):
            return f"the guide's {name!r} is no latent of the model"
        law = Law.of(site["fn"])
        if law is None or isinstance(law, FlowLaw):
            shown = type(unwrap(site["fn"])).__name__
            return f"the guide's {name!r} is not normal, or carried on by maps with parameters (it stands on {shown})"
    return "" if spread else "the guide draws nothing whose noise could be fixed"


def _of_data(pair: Pair, batch: Batch) -> str:
    """Do the guide's laws hang on the data? They are compared with those of the same rows in another order."""
    if batch.size is None or batch.size < 2:
        return ""
    found = []
    for each in (batch, _turned(batch)):
        with isolated_rng(0, pair.device):  # the same draws, so that laws given other draws are the same
            found.append(laws_of(pair, each))
    first, turned = ({name: law.numbers for name, law in laws.items()} for laws in found)
    for name, numbers in first.items():
        others = turned.get(name, ())
        if len(others) != len(numbers) or not all(map(torch.equal, numbers, others)):
            return f"the guide's {name!r} follows from the data (an amortized guide)"
    return ""


def _turned(batch: Batch) -> Batch:
    """The same rows, each in the next one's place; what is no row stays."""
    order = torch.roll(torch.arange(batch.size or 0), 1)

    def turn(value: Any) -> Any:
        return value[order.to(value.device)] if isinstance(value, Tensor) and value.dim() else value

    return replace(batch, args=tuple(map(turn, batch.args)), kwargs={n: turn(v) for n, v in batch.kwargs.items()})
