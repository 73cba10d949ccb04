"""The pair: a generative model p_θ(x, z) and a guide q_φ(z | x), with their parameters, as one object."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.data.source import Source, source_of
from ppl_vae.pair import predictive, sampling, scoring
from ppl_vae.pair.axis import DataAxisError
from ppl_vae.pair.calls import Call, names
from ppl_vae.pair.density import Density
from ppl_vae.pair.draws import Draws, LogProb
from ppl_vae.pair.inspection import look
from ppl_vae.pair.known import require_known_rows, require_own_parts, require_own_subsample
from ppl_vae.pair.mapped import draws_of_many
from ppl_vae.pair.parameters import allow_local_params, buffers_of
from ppl_vae.pair.runs import Runs
from ppl_vae.pair.scope import Scope, empty_store
from ppl_vae.pair.units import Units, rows_in

_TEMPLATE_ROWS = 256


def _shown(part: str, name: str) -> Any:
    """What a part of the pair says, as the pair's own: ``pair.latents`` is ``pair.sites.latents``."""

    def read(self: Pair) -> Any:
        return getattr(getattr(self, part), name)

    return property(read, doc=f"``{part}.{name}``.")


class Pair:
    r"""A model and a guide, bound together with their parameters.

    .. math:: \log p_\theta(x) = E_q[\log p_\theta(x, z) - \log q_\phi(z \mid x)] + KL(q_\phi(z \mid x) \| p_\theta(z
    \mid x))

    ``model`` and ``guide`` are any Pyro pair: functions with ``pyro.param``, modules, methods of modules, autoguides.
    Parameters that ``pyro.param`` makes live in a store of the pair's own; Pyro's global store is never touched.

    It holds what it is made of: ``sites`` (plain data), ``scope`` (its parameters, device and mode), ``runner`` (how
    it is run, and what was checked of that).

    Args:
        model: p(x, z); called with the data's tensors, as in Pyro.
        guide: q(z | x); called with the same.
        data_plate: name of the plate of the datum. Default: the only outermost plate over the rows of the data.
        device, dtype: where and in what precision runs are made. Default: as the modules are.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        data_plate: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for role, fn in (("model", model), ("guide", guide)):
            if not callable(fn) or isinstance(fn, type):
                raise TypeError(f"Pair: the {role} must be a function or a module instance, got {fn!r}")
        self.model, self.guide = model, guide
        self.scope = Scope((model, guide), device, dtype)
        self.template: Rows | None = None
        self._data_plate, self.num_rows = data_plate, 0
        self._runner: Runs | None = None
        self.units: Units | None = None  # of data given and shown, where they are others than the pair's
        allow_local_params(self.modules())

    @classmethod
    def from_param_store(cls, model: Callable[..., Any], guide: Callable[..., Any], **options: Any) -> Self:
        """Bind a pair that Pyro's own SVI has trained: the parameters are those of Pyro's global store, shared."""
        import pyro

        pair = cls(model, guide, **options)
        pair.scope.store, pair.scope.local_params = dict(pyro.get_param_store().get_state()), False
        return pair

    @classmethod
    def bare(cls, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, **options: Any) -> Self:
        """A pair inside Pyro's own SVI, with its global store and handlers: for an objective that serves as a loss."""
        import pyro

        pair = cls(model, guide, **options)
        pair.scope.store = None
        pair._look(batch, None, strict=False, announced=True)
        store = pyro.get_param_store()
        for name in store:  # reading the state has cut the way from a value to its leaf, which Pyro's SVI goes
            store[name]
        return pair

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A pair of its own, with modules and parameters of its own."""
        require_own_parts(self)
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def initialized(self) -> bool:
        """Has the pair been run once, so that its sites and parameters are known?"""
        return self._runner is not None

    def initialize(
        self, data: Any, *, seed: int = 0, batch_size: int | None = None, num_data: int | None = None
    ) -> Self:
        """Run the pair once, to make lazy parameters and to find its sites, groups and data plate. Idempotent.

        The run is on the first ``batch_size`` rows, or on all of them if the pair has a plate of a fixed size. A run is
        made with Pyro's validation on, so a wrong shape is found here. ``num_data`` is N, if ``data`` are some of N
        rows.

        Raises:
            DataAxisError: if the plate of the data cannot be told.
        """
        if self.initialized:
            return self
        rows = self.rows(data)
        self.template, self.num_rows = rows.take(slice(0, _TEMPLATE_ROWS)), num_data or len(rows)
        key, total = fold(seed, "initialize"), num_data or len(rows) or None
        if batch_size is None or batch_size >= len(rows):
            self._look(rows.batch(num_data=total), key)
            return self
        try:
            self._look(rows.take(slice(0, batch_size)).batch(num_data=total), key)
        except Exception as error:
            self.scope.store = empty_store()
            self._look(rows.batch(), key)
            require_own_subsample(self, len(rows), batch_size, error)
        return self

    def _look(self, batch: Batch, seed: int | None, *, strict: bool = True, announced: bool = False) -> None:
        model = Call(self.model, partner=self.guide, announced=announced)
        guide = Call(self.guide, partner=self.model, announced=announced)
        found = look(model, guide, self.scope, batch, seed=seed, data_plate=self._data_plate, strict=strict)
        self._runner = Runs(model, guide, self.scope, found.sites, found.parameters)

    @property
    def runner(self) -> Runs:
        """How the pair is run."""
        if self._runner is None:
            raise RuntimeError(
                "Pair: the pair has not been run on data yet; call pair.initialize(data) or fit it first"
            )
        return self._runner

    device, dtype = _shown("scope", "device"), _shown("scope", "dtype")
    modules, mode, evaluating = _shown("scope", "modules"), _shown("scope", "mode"), _shown("scope", "evaluating")
    sites, parameters = _shown("runner", "sites"), _shown("runner", "parameters")
    run, runs, vectorizes = _shown("runner", "run"), _shown("runner", "many"), _shown("runner", "vectorizes")
    rescore_guide, require_enumerable = _shown("runner", "rescore_guide"), _shown("runner", "require_enumerable")
    layout, latents, observed = _shown("sites", "layout"), _shown("sites", "latents"), _shown("sites", "seen")
    summed, enumerated = _shown("sites", "summed_out"), _shown("sites", "enumerated")
    has_global_latents, is_exact = _shown("sites", "has_global_latents"), _shown("sites", "is_exact")
    counts_volume = _shown("sites", "counts_volume")

    @property
    def data_plate(self) -> str | None:
        """The name of the plate of the datum (None: not known yet, or a pair without data)."""
        return self.layout.axis.name if self.initialized and self.layout.axis else self._data_plate

    @property
    def params(self) -> dict[str, Tensor]:
        """Every parameter in its constrained space, by name, as detached CPU tensors."""
        return self.parameters.constrained()

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The live unconstrained leaves by name: what an optimizer moves."""
        return dict(self.parameters.leaves)

    def buffers_by_name(self) -> dict[str, Tensor]:
        """The live buffers of the pair's modules (running means and the like) by name."""
        return buffers_of(self.model, self.guide)

    def newcomers(self) -> list[str]:
        """Parameters that ``pyro.param`` has made since the pair was first run; call it inside the pair's scope."""
        return self.parameters.newcomers()

    def frozen_by_name(self) -> dict[str, Tensor]:
        """The parameters of the pair's modules that are not trained (``requires_grad`` is False), by name."""
        return self.parameters.frozen(self.modules())

    def takes(self, argument: str) -> bool:
        """Does the model or the guide name this argument?"""
        return names(self.model, argument) or names(self.guide, argument)

    # -- data ----------------------------------------------------------------------------------------------------------

    def rows(self, data: Any, *, name: str = "data", of_guide: bool = True) -> Source:
        """The data as rows that come to the pair's device, in its precision; errors call them ``name``.

        ``of_guide=False``: the guide may have no posterior for them, since the model alone will look at them.

        Raises:
            ValueError: a guide with a posterior for each row (one that names ``index``) gets other rows than it knows.
        """
        source = source_of(data, name=name, dtype=self.dtype).to(device=self.device, dtype=self.dtype)
        rows = rows_in(self, data, source)
        if self.initialized:
            require_known_rows(self, rows, of_guide=of_guide)
        return rows

    def as_batch(self, data: Any) -> Batch:
        """All rows as one batch.

        Raises:
            DataAxisError: the pair draws a subsample of the rows that it is given.
        """
        if isinstance(data, Batch):
            return data
        rows = self.rows(data)
        self.require_whole_rows(rows)
        return rows.batch()

    def require_whole_rows(self, rows: Source) -> None:
        """Raise :class:`DataAxisError` if the pair draws a subsample of the rows that it is given."""
        axis = self.initialize(rows).layout.axis
        if axis is not None and axis.subsampled:
            raise DataAxisError(
                f"Pair: the plate {axis.name!r} draws its own subsample, so single rows cannot be evaluated; give the "
                "model and the guide the rows and let `fit(batch_size=...)` make the mini-batches"
            )

    def as_values(self, values: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values by site, on the pair's device: a tensor alone is of the one latent."""
        if not isinstance(values, Mapping):
            if len(self.latents) != 1:
                found = sorted(self.latents)
                raise ValueError(f"Pair: values by site are required for the latents {found}, got one tensor")
            values = {next(iter(self.latents)): values}
        tensors = {name: torch.as_tensor(value) for name, value in values.items()}
        return {n: v.to(self.device, self.dtype if v.is_floating_point() else None) for n, v in tensors.items()}

    def template_state(self) -> dict[str, Any]:
        """Two rows of the data that the pair was first run on, as a plain tree, for a later process to run it on."""
        if self.template is None:
            return {}
        few = self.template.take(slice(0, 2)).to(device="cpu")
        return {"args": list(few.args), "kwargs": dict(few.kwargs)}

    # -- densities, draws ----------------------------------------------------------------------------------------------

    def draw(self, data: Any, num_samples: int, *, seed: int = 0) -> Draws:
        """Draw latents from the guide and score them: values (S, N, ...), log p and log q in nats.

        Args:
            data: N rows.
            num_samples: S; all of them are held in memory.
            seed: the draws are a function of it.
        """
        batch = self.as_batch(data)
        with self.evaluating(fold(seed, "draw")):
            return draws_of_many(self, batch, num_samples, lambda run, drawn: drawn.log_weight)[0]

    def draw_prior(self, data: Any, num_samples: int, *, seed: int = 0) -> Draws:
        """Draw latents from the model's prior; ``log_weight`` is then the log-likelihood of the data, in nats.

        Raises:
            ValueError: p(x | z) is a point mass (a flow), or a prior is improper (``Flat``).
        """
        batch = self.as_batch(data)
        self.sites.require_spread("draw_prior")
        with self.evaluating(fold(seed, "draw_prior")):
            runs = scoring.prior_runs(self, batch, num_samples)
            return Draws.stack([scoring.draws_of_prior(self, run) for run in runs])

    def draw_prior_values(self, data: Any, num_samples: int, *, seed: int = 0) -> dict[str, Tensor]:
        """The values that :meth:`draw_prior` draws, (S, N, ...) by site, not scored; a point mass of x is no matter."""
        batch = self.as_batch(data)
        with self.evaluating(fold(seed, "draw_prior")):
            parts = [scoring.values_of(self, run) for run in scoring.prior_runs(self, batch, num_samples)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.latents}

    def log_joint(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> LogProb:
        """Log p(x, z) by site at the given latents: (S, N) in the data plate, (S,) outside, nats.

        Args:
            data: N rows.
            values: latents by site, (S, N, ...) or (S, ...) outside the plate; a tensor if there is one latent.
        """
        return self._scored("log_joint", data, values, self.latents, scoring.score_model)

    def log_guide(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> LogProb:
        """Log q(z | x) by site at the given latents: (S, N) or (S,), nats.

        Raises:
            ValueError: for a guide whose latents follow from auxiliary draws (most autoguides) that are not given.
        """
        return self._scored("log_guide", data, values, None, scoring.score_guide)

    def _scored(self, what: str, data: Any, values: Any, required: Collection[str] | None, score: Any) -> LogProb:
        batch, given = self.as_batch(data), self.as_values(values)
        whose = "latent site" if required is not None else "site of the guide"
        missing = sorted(set(self.sites.guide if required is None else required) - set(given))
        if missing:
            raise ValueError(f"{what}: a value of every {whose} is required, got none of {missing}")
        with self.evaluating(fold(0, "score")):
            return scoring.scored(self, batch, given, lambda inner, count: score(self, batch, inner, count))

    def unconstrain(self, data: Any, values: Tensor | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Latents as unconstrained u, with log |dz/du| in nats: log p(x, u) = log p(x, z) + log_det.

        Args:
            data: N rows.
            values: latents by site, (S, N, ...) or (S, ...) outside the data plate.

        Returns:
            u by site, the same leading shape; and log_det, (S, N), or (S,) with global latents. float64, CPU.

        Raises:
            ValueError: for a latent with a discrete support.
        """
        batch, given = self.as_batch(data), self.as_values(values)
        with self.evaluating(fold(0, "score")):
            return scoring.unconstrain(self, batch, given)

    def constrain(self, data: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`unconstrain`: latents z, (S, N, ...) by site, from unconstrained u."""
        batch, given = self.as_batch(data), self.as_values(values)
        with self.evaluating(fold(0, "constrain")):
            return scoring.constrain(self, batch, given)

    def density(self, data: Any, *, scale: bool = False) -> Density:
        """Log p(x, u) as a differentiable function of unconstrained latents, on the device; see :class:`Density`.

        Args:
            data: N rows, or a batch of them.
            scale: multiply what stands inside the data plate by N/B.
        """
        return Density(self, self.as_batch(data), scale=scale)

    # -- sampling ------------------------------------------------------------------------------------------------------

    def simulate(
        self, n: int, *, seed: int = 0, mean: bool = False, latents: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Sample n data and their latents from the model; the guide is not touched.

        Args:
            n: how many data.
            mean: give the mean of each observed site (of classes, which have none, the mode) instead of a draw.
            latents: values of latent sites to hold, (n, ...) in the data plate.

        Returns:
            (n, ...) by site, latent and observed; for a site outside the data plate one value.
        """
        if n < 1:
            raise ValueError(f"simulate: n must be at least 1, got {n}")
        given = self.as_values(latents) if latents else {}
        if unknown := sorted(set(given) - set(self.sites.model)):
            raise ValueError(f"simulate: the latent sites are {sorted(self.latents)}, got {unknown}")
        return sampling.simulated(self, n, given, mean, seed)

    def predict(
        self, data: Any, values: Any, *, seed: int = 0, mean: bool = False, num_samples: int = 1
    ) -> dict[str, Tensor]:
        """Sample the observed sites anew at given latents: (S, N, ...) by site, or their means.

        Latents that the model sums out are drawn from p(c | x, z), of rows without x from the model, as are latents
        that are not given. Without latents S is ``num_samples``.
        """
        rows, given = self.rows(data), self.as_values(values)
        self.require_whole_rows(rows)
        size = len(next(iter(given.values()))) if given else num_samples
        seen = not self.summed or not predictive.unseen_sites(self, rows)
        return sampling.predicted(self, rows, given, size, mean, seed, given_data=seen)
