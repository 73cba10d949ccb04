"""The evidence lower bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import MultiFrameTensor
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import Codes, closed_form_kl, event_rank, sum_event
from ppl_vae.objectives.annealing import Schedule, at
from ppl_vae.objectives.closed_form import eligible
from ppl_vae.objectives.objective import Objective, Terms, num_data_of
from ppl_vae.objectives.training_only import auxiliary_term
from ppl_vae.pair import Execution, GuideScore, Pair, SiteScore, Table


@dataclass
class Split:
    """A sum of terms inside the data plate (S, B) and of terms outside it (S,)."""

    local: Tensor | float = 0.0
    shared: Tensor | float = 0.0

    def add(self, term: Any, is_local: bool) -> None:
        """Add one site's term."""
        if is_local:
            self.local = self.local + term
        else:
            self.shared = self.shared + term

    def per_datum(self, num_data: int) -> Tensor:
        """The mean over draws and data of the local part, and the shared part's share of one datum: ()."""
        return _mean(self.local) + _mean(self.shared) / num_data


def _mean(term: Tensor | float) -> Any:
    return term.mean() if isinstance(term, Tensor) else term


@dataclass
class _Parts:
    """One run of the pair, read as an ELBO."""

    reconstruction: Split = field(default_factory=Split)
    kl: Split = field(default_factory=Split)
    bits: list[Tensor] = field(default_factory=list)  # KL by latent dimension, (S, B, dims), where free bits want it
    surrogate_kl: Split = field(default_factory=Split)


class ELBO(Objective):
    r"""The evidence lower bound, with a weight on the KL and a floor under it.

    .. math:: L_{\phi,\theta}(x) = E_q[\log p_\theta(x \mid z)] - \beta\, KL(q_\phi(z \mid x) \| p_\theta(z))

    With the defaults its expectation is that of Pyro's ``Trace_ELBO``, and with ``analytic_kl=False`` value and
    gradient are equal to Pyro's at the same noise. Draws without a reparametrization get the score function estimator,
    with the costs that the data plate shows to be theirs.

    A discrete site that the guide marks with ``infer={"enumerate": "parallel"}`` is not drawn: its expectation is taken
    over all its values,

    .. math:: L(x) = \sum_c q(c \mid x) \log p(x \mid c) + H(q(c \mid x)) + \sum_c q(c \mid x) \log p(c),

    and a site that the model alone marks is summed out of p. Both are what Pyro's ``TraceEnum_ELBO`` computes.

    Args:
        beta: weight of the KL: a number or a schedule of the step (``LinearWarmup``, ``Cyclical``).
        free_bits: nats a latent dimension: where the KL of a dimension, averaged over the batch, is smaller, it is not
            pushed further down.
        analytic_kl: ``"auto"`` takes the KL in closed form site by site where it exists and is the same expectation;
            ``False`` never. A class of your own has the rule that ``torch.distributions.register_kl`` was given for it,
            and not its parent's.
        num_particles: draws of z a datum, averaged.

    Sources: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; Higgins et al., "beta-VAE", 2017 (beta); Kingma
    et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016 (free bits).
    """

    enumerates = True

    def __init__(
        self,
        beta: Schedule = 1.0,
        free_bits: float = 0.0,
        analytic_kl: str | bool = "auto",
        *,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles)
        if analytic_kl not in ("auto", True, False):
            raise ValueError(f"ELBO: analytic_kl must be 'auto' or False, got {analytic_kl!r}")
        if not callable(beta) and beta < 0:
            raise ValueError(f"ELBO: beta must not be negative, got {beta}")
        if free_bits < 0:
            raise ValueError(f"ELBO: free_bits must not be negative, got {free_bits}")
        self.beta, self.free_bits, self.analytic_kl = beta, float(free_bits), bool(analytic_kl)
        # A schedule's value stands in a tensor, so that a captured step reads it instead of having it baked in.
        self._beta: float | Tensor = torch.tensor(at(beta, 0), dtype=torch.float64) if callable(beta) else float(beta)

    def begin_step(self, step: int) -> None:
        """Take beta's value at this step."""
        if isinstance(self._beta, Tensor):
            self._beta.fill_(at(self.beta, step))

    def _beta_like(self, like: Tensor) -> float | Tensor:
        return self._beta.to(like) if isinstance(self._beta, Tensor) else self._beta

    def __repr__(self) -> str:
        # A function is named, not shown: its address differs from run to run, and a checkpoint compares this.
        beta = getattr(self.beta, "__qualname__", self.beta)
        parts = [] if self.beta == 1.0 else [f"beta={beta}"]
        parts += [f"free_bits={self.free_bits}"] if self.free_bits else []
        parts += [] if self.analytic_kl else ["analytic_kl=False"]
        parts += [f"num_particles={self.num_particles}"] if self.num_particles > 1 else []
        return f"ELBO({', '.join(parts)})"

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        runs = pair.runs(batch, self.num_particles, enumerate=self.enumerates)
        each = [self._terms(run, batch) for run in runs]
        return each[0] if len(each) == 1 else _average(each)

    def exact_surrogates(self, table: Table) -> dict[str, Tensor]:
        """The bound with beta on its KL, without noise.

        Raises:
            ValueError: with free bits, whose floor is under means over a batch.
        """
        if self.free_bits:
            raise ValueError(f"{self!r}: free_bits are counted over a batch, so no table of single data has them")
        likelihood, kl = table.log_p - table.log_prior, table.log_q - table.log_prior
        bound = table.mean(table.log_q.exp(), likelihood - self._beta_like(likelihood) * kl)
        return dict.fromkeys(("theta", "phi"), bound)

    def _terms(self, run: Execution, batch: Batch) -> Terms:
        model, guide = run.score_model(), run.score_guide()
        num_data = num_data_of(run, batch)
        parts = self._parts(run, model, guide)
        reconstruction, kl = parts.reconstruction, parts.kl
        sums = (reconstruction.local, reconstruction.shared, kl.local, kl.shared, *parts.bits)
        like = next(t for t in sums if isinstance(t, Tensor))
        beta = self._beta_like(like)
        counted, surrogate_kl = kl, parts.surrogate_kl
        if self.free_bits:
            counted = surrogate_kl = Split(_floored(parts.bits, self.free_bits) + kl.local, kl.shared)
            kl = Split(sum(b.sum(-1) for b in parts.bits) + kl.local, kl.shared)
        surrogate = reconstruction.per_datum(num_data) - beta * surrogate_kl.per_datum(num_data)
        if any(not is_identically_zero(score.score) for score in guide.values()):
            surrogate = surrogate + self._score_function(run, model, guide, num_data) / num_data
        extra = auxiliary_term(run)
        if extra is not None:
            surrogate = surrogate + extra.mean()
        value = reconstruction.local - beta * counted.local
        shared = reconstruction.shared - beta * counted.shared
        if any(score.weighted for score in (*model.values(), *guide.values())):  # what is reported bears no weight
            reconstruction, kl = _unweighted(model, guide)
        mean_reconstruction, mean_kl = reconstruction.per_datum(num_data), kl.per_datum(num_data)
        return Terms(
            value=_tensor(value, like).mean(0) if isinstance(value, Tensor) else like.new_zeros(1),
            global_value=_tensor(_mean(shared), like),
            num_data=num_data,
            surrogates=dict.fromkeys(("theta", "phi"), _tensor(surrogate, like)),
            elbo=_tensor(mean_reconstruction - mean_kl, like),
            reconstruction=_tensor(mean_reconstruction, like),
            kl=_tensor(mean_kl, like),
            auxiliary=0.0 if extra is None else extra.detach().mean(),
        )

    def _parts(self, run: Execution, model: dict[str, SiteScore], guide: dict[str, GuideScore]) -> _Parts:
        parts = _Parts()
        for name, p in model.items():
            if p.observed:
                parts.reconstruction.add(_counted(p), p.local)
            elif p.summed:
                parts.kl.add(-p.log_prob, p.local)
                parts.surrogate_kl.add(-p.log_prob, p.local)
            elif name not in guide:
                raise ValueError(
                    f"ELBO: the guide must sample every latent site of the model, but it has no {name!r}; its sites "
                    f"are {sorted(guide)}"
                )
            else:
                self._add_kl(parts, run, guide[name], p)
        for name, q in guide.items():
            if name not in model:  # auxiliary draws, whose density the latent's point mass takes back
                parts.kl.add(_counted(q), q.local)
                parts.surrogate_kl.add(_path(q), q.local)
        return parts

    def _add_kl(self, parts: _Parts, run: Execution, q: GuideScore, p: SiteScore) -> None:
        if q.local != p.local:
            inside, outside = ("guide", "model") if q.local else ("model", "guide")
            raise ValueError(
                f"ELBO: {q.name!r} is inside the data plate in the {inside}, and outside it in the {outside}"
            )
        closed = closed_form_kl(q.site["fn"], p.site["fn"]) if self.analytic_kl and eligible(run, q, p) else None
        if self.free_bits and p.local:
            parts.bits.append(_by_dimension(q, p, closed))
            return
        if closed is None:
            kl = _counted(q) - _counted(p)
            surrogate = kl if q.entropy is q.log_prob else _path(q) - _counted(p)
        else:  # both bear the same weight
            term = q.masked(sum_event(closed, q.site["fn"], p.site["fn"]))
            kl = surrogate = q.weigh(term) if q.weighted else q.reduce(term)
        parts.kl.add(kl, p.local)
        parts.surrogate_kl.add(surrogate, p.local)

    def _score_function(
        self, run: Execution, model: dict[str, SiteScore], guide: dict[str, GuideScore], num_data: int
    ) -> Tensor:
        """Sum over unreparametrized sites of (their cost, detached) * log q, scaled to all data."""
        if self.free_bits:
            raise ValueError("ELBO: free_bits needs a reparametrized guide; a site here has only a score function")
        frame = run.data_plate
        factor = num_data / frame.size if frame is not None else 1.0
        cost = MultiFrameTensor()
        for name, p in model.items():
            beta = 1.0 if p.observed else self._beta_like(p.raw)
            term = _scaled(p, factor * beta)
            if name in guide:
                term = term - _scaled(guide[name], factor * beta)
            cost.add((p.site["cond_indep_stack"], term.detach()))
        total: Any = 0.0
        for q in guide.values():
            if not is_identically_zero(q.score):
                frames = [f for f in q.site["cond_indep_stack"] if f.vectorized]
                total = total + (cost.sum_to(frames) * q.score).sum()
        return total / (run.num_particles or 1)


def _unweighted(model: dict[str, SiteScore], guide: dict[str, GuideScore]) -> tuple[Split, Split]:
    """Reconstruction and KL from densities as they are, sampled."""
    reconstruction, kl = Split(), Split()
    for p in model.values():
        (reconstruction if p.observed else kl).add(p.log_prob if p.observed else -p.log_prob, p.local)
    for q in guide.values():
        kl.add(q.log_prob, q.local)
    return reconstruction, kl


def _counted(score: SiteScore) -> Tensor:
    """A site's log density as the objective counts it: with its weight."""
    return score.weighted_log_prob if score.weighted else score.log_prob


def _path(score: GuideScore) -> Any:
    """What is differentiated in -log q, with its weight."""
    return score.weighted_entropy if score.weighted else score.entropy


def _scaled(score: SiteScore, factor: float | Tensor) -> Tensor:
    """A site's raw log density, weighted, and scaled to all data if it stands in the data plate."""
    return score.raw * (score.weight * (factor if score.local else 1.0))


def _tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else like.new_tensor(value)


def _by_dimension(q: GuideScore, p: SiteScore, closed: Tensor | None) -> Tensor:
    """The KL of a local site by latent dimension, (S, B, dims): in closed form or sampled."""
    if not is_identically_zero(q.score):
        raise ValueError(f"ELBO: free_bits needs a reparametrized guide, but {q.name!r} has only a score function")
    fn_q, fn_p, value = q.site["fn"], p.site["fn"], p.site["value"]
    if p.absorbed:
        raise ValueError(
            f"ELBO: free_bits need the KL of {q.name!r} by itself, but its prior is summed over another latent"
        )
    if q.weighted or p.weighted:
        raise ValueError(f"ELBO: free_bits count nats, but {q.name!r} is weighted with poutine.scale")
    if q.site["mask"] is not p.site["mask"]:
        return (q.log_prob - p.log_prob).unsqueeze(-1)
    if isinstance(fn_q, Codes) and isinstance(fn_p, Codes):  # each latent of a code by itself
        closed = kl_divergence(Categorical(logits=fn_q.logits), Categorical(logits=fn_p.logits))
    if closed is None and _independent(fn_q) and _independent(fn_p):
        closed = fn_q.base_dist.log_prob(value) - fn_p.base_dist.log_prob(value)
    if closed is None:  # dependent dimensions share one floor
        return (q.log_prob - p.log_prob).unsqueeze(-1)
    rank = event_rank(closed, fn_q, fn_p)
    flat = closed.flatten(-rank) if rank else closed.unsqueeze(-1)
    return torch.stack([q.reduce(q.masked(column)) for column in flat.unbind(-1)], -1)


def _independent(fn: Any) -> bool:
    return hasattr(fn, "base_dist") and getattr(fn, "reinterpreted_batch_ndims", 0) == 1


def _floored(bits: list[Tensor], floor: float) -> Any:
    """Sum over dimensions of max(floor, KL averaged over draws and batch), as a (S, B) term with that mean."""
    total: Any = 0.0
    for kl in bits:
        above = kl.mean((0, 1), keepdim=True) > floor
        total = total + torch.where(above, kl, kl.new_tensor(floor)).sum(-1)
    return total


def _average(each: list[Terms]) -> Terms:
    """The mean over runs made one by one."""

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(t, name) for t in each]).mean(0)

    surrogate = torch.stack([t.surrogates["theta"] for t in each]).mean(0)
    return Terms(
        value=mean("value"),
        global_value=mean("global_value"),
        num_data=each[0].num_data,
        surrogates=dict.fromkeys(("theta", "phi"), surrogate),
        elbo=mean("elbo"),
        reconstruction=mean("reconstruction"),
        kl=mean("kl"),
        auxiliary=sum(t.auxiliary for t in each) / len(each),
    )
