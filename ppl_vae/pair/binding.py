"""What a pair is made of: a model and a guide, their modules, parameters, sites and data plate; and one run of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Self

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.data.source import Source, source_of
from ppl_vae.pair.axis import DataAxisError, GlobalLatentError, find_data_axis, frames_of, sample_sites
from ppl_vae.pair.calls import call_with_batch, names, shape_key
from ppl_vae.pair.checks import check_shapes, require_enumerable, shaken, vectorizes
from ppl_vae.pair.enumeration import is_marked
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.handlers import Substitute, has_density, same_rows
from ppl_vae.pair.layout import Layout
from ppl_vae.pair.parameters import allow_local_params, buffers_of, collect, modules_of, reached_by
from ppl_vae.pair.particles import Site
from ppl_vae.pair.points import counting, detach, is_exact, unpaid
from ppl_vae.pair.runs import run_pair, with_particles
from ppl_vae.pair.scope import LOCK, scoped, validation
from ppl_vae.pair.scores import SiteScore

_TEMPLATE_ROWS = 256


class Binding:
    """A model and a guide bound together: everything below densities and sampling, which :class:`Pair` adds."""

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
        self._model_call = call_with_batch(model, partner=guide)
        self._guide_call = call_with_batch(guide, partner=model)
        self._store: dict[str, Any] | None = {"params": {}, "constraints": {}}
        self._local_params = True
        self._data_plate = data_plate
        self._layout: Layout | None = None
        self._checks: dict[Any, Any] = {}
        self._template: Rows | None = None
        self.device, self.dtype = self._placement(device, dtype)
        allow_local_params(self.modules())

    # -- where it lives ------------------------------------------------------------------------------------------------

    def modules(self) -> list[nn.Module]:
        """The modules that stand behind the model and the guide."""
        return [m for fn in (self.model, self.guide) for m in modules_of(fn)]

    def _placement(self, device: Any, dtype: Any) -> tuple[torch.device, torch.dtype]:
        floats = [t for m in self.modules() for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
        if device is None:
            device = floats[0].device if floats else torch.device("cpu")
        if dtype is None:
            with LOCK:  # the scope of a pair in another thread may have set another default for a while
                dtype = floats[0].dtype if floats else torch.get_default_dtype()
        for module in self.modules():
            module.to(device=torch.device(device), dtype=dtype)
        return torch.device(device), dtype

    @classmethod
    def from_param_store(cls, model: Callable[..., Any], guide: Callable[..., Any], **options: Any) -> Self:
        """Bind a pair that Pyro's own SVI has trained: the parameters are those of Pyro's global store, shared."""
        import pyro

        pair = cls(model, guide, **options)
        pair._store = dict(pyro.get_param_store().get_state())
        pair._local_params = False
        return pair

    @classmethod
    def bare(cls, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Self:
        """A pair that uses Pyro's global store, as Pyro's SVI does: for an objective that serves as a Pyro loss."""
        pair = cls(model, guide)
        pair._store = None
        pair._model_call = call_with_batch(model, partner=guide, announced=True)
        pair._guide_call = call_with_batch(guide, partner=model, announced=True)
        pair._initialize(batch, None, strict=False)
        return pair

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Let ``pyro.param`` see this pair's parameters; the process-wide lock is held meanwhile."""
        with scoped(self._store, device=self.device, dtype=self.dtype, local_params=self._local_params):
            yield

    @contextmanager
    def evaluating(self, seed: int) -> Iterator[None]:
        """Evaluation: in scope, without gradients, modules in eval mode, on noise of ``seed``; all is given back."""
        with ExitStack() as stack:
            stack.enter_context(self.scope())
            stack.enter_context(torch.no_grad())
            stack.enter_context(isolated_rng(seed, self.device))
            stack.enter_context(self.mode(training=False))
            yield

    @contextmanager
    def mode(self, *, training: bool) -> Iterator[None]:
        """Put every module of the pair into training or evaluation mode, and give each its own mode back."""
        before = {part: part.training for m in self.modules() for part in m.modules()}
        for part in before:
            part.training = training
        try:
            yield
        finally:
            for part, was in before.items():
                part.training = was

    def rows(self, data: Any) -> Source:
        """The data as rows that come to the pair's device, in its precision.

        Raises:
            ValueError: a guide with a posterior for each row (one that names ``index``) gets other rows than it knows.
        """
        rows = source_of(data, dtype=self.dtype).to(device=self.device, dtype=self.dtype)
        if self.initialized and rows.index is None and len(rows) != self._num_rows and self.takes("index"):
            raise ValueError(
                f"{type(self.guide).__name__}: a free posterior exists only for the {self._num_rows} rows that it was "
                f"fitted to (its signature names index), got {len(rows)} other rows"
            )
        if self.initialized:
            self._require_columns(rows)
        return rows

    def _require_columns(self, rows: Source) -> None:
        """Tables and images keep their last axis; a length before it (of a sequence, say) may change."""
        known = self._template.columns if self._template is not None else ()
        for was, now in zip(known, rows.columns if known else (), strict=False):
            unnamed = isinstance(was.name, int) and isinstance(now.name, int)
            same_rank = len(was.shape) == len(now.shape) >= 1
            if unnamed and same_rank and was.shape[-1] != now.shape[-1] and now.dtype.is_floating_point:
                raise ValueError(
                    f"Pair: data of shape (N, ..., {was.shape[-1]}) as in the fit are required, got "
                    f"{(len(rows), *now.shape)}"
                )

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def initialized(self) -> bool:
        """Has the pair been run once, so that its sites and parameters are known?"""
        return self._layout is not None

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
        self._template, self._num_rows = rows.take(slice(0, _TEMPLATE_ROWS)), num_data or len(rows)
        key = fold(seed, "initialize")
        few = rows.take(slice(0, batch_size)) if batch_size is not None and batch_size < len(rows) else rows
        try:
            self._initialize(few.batch(num_data=num_data or len(rows) or None), key, strict=True)
        except Exception as error:
            if len(few) == len(rows):
                raise
            self._forget()
            self._initialize(rows.batch(), key, strict=True)
            if not self.layout.axis.subsampled:  # type: ignore[union-attr]
                first_line = str(error).partition("\n")[0]
                raise DataAxisError(
                    f"Pair: it runs on all {len(rows)} rows, but not on a mini-batch of {batch_size} ({first_line}); "
                    f"if the plate {self.data_plate!r} has a fixed size, make it `pyro.plate({self.data_plate!r}, "
                    "len(x))` or give it a subsample_size, or fit without batch_size"
                ) from error
        return self

    def _forget(self) -> None:
        self._layout = None
        self._store = {"params": {}, "constraints": {}}

    def _initialize(self, batch: Batch, seed: int | None, *, strict: bool) -> None:
        # Under Pyro's own SVI (no seed) lazy parameters are drawn from the caller's generator, as Pyro does.
        noise = isolated_rng(seed, self.device) if seed is not None else nullcontext()
        try:
            # In eval mode: a look at the pair must not move running means.
            with self.scope(), noise, validation(True), torch.enable_grad(), self.mode(training=False):
                self._inspect(batch, strict)
        except (NotImplementedError, AttributeError) as error:
            known = "local param mode" in str(error) or "param_state" in str(error)
            if not known or not self._local_params:
                raise
            # A PyroModule with pyro.param statements, or one hidden where we cannot see it: Pyro's older scheme, in
            # which modules register by name, serves these; the store is still our own.
            self._local_params = False
            self._forget()
            self._initialize(batch, seed, strict=strict)

    def _inspect(self, batch: Batch, strict: bool) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "trying to observe a value outside of inference")
            guide_trace = poutine.trace(self._guide_call).get_trace(batch)
            by_guide = reached_by(guide_trace)
            detach(guide_trace)  # z carries φ into log p; at constant z the model shows what is its own
            model_trace = poutine.trace(poutine.replay(self._model_call, trace=guide_trace)).get_trace(batch)
        traces = (model_trace, guide_trace)
        try:
            axis = find_data_axis(traces, batch.size, self._data_plate, batch.num_data)
        except DataAxisError:
            if strict:
                raise
            axis = None
        check_shapes(model_trace, guide_trace)
        dims = [frame.dim for frame, _ in frames_of(traces)]
        layout = Layout(axis, max((-d for d in dims), default=0))
        self._model_sites = {n: Site.of(n, s, layout) for n, s in sample_sites(model_trace)}
        drawn = [(n, s) for n, s in sample_sites(guide_trace) if not s["is_observed"]]
        self._guide_sites = {n: Site.of(n, s, layout) for n, s in drawn}
        derived = any(s["infer"].get("is_auxiliary") for _, s in drawn)
        self._point_masses = [] if derived else unpaid(dict(drawn), model_trace)
        self._is_exact = not derived and is_exact(dict(drawn), model_trace)
        self._counts_volume = any(counting(model_trace))
        observed = [(n, s) for n, s in sample_sites(model_trace) if s["is_observed"] and has_density(s)]
        self._observed = [n for n, s in observed if not isinstance(s["fn"], Unit)]
        self._tied = [n for n, s in [*observed, *drawn] if not layout.is_local(s)]
        self._latent = [n for n, s in sample_sites(model_trace) if not s["is_observed"]]
        self._enumerated = frozenset(n for n, s in drawn if is_marked(s))
        self._summed = frozenset(n for n, s in sample_sites(model_trace) if is_marked(s) and n not in guide_trace.nodes)
        store = _global_store()  # the pair's own one, which the scope has put in place
        self.parameters = collect(self.model, self.guide, store, guide_trace, reached_by(model_trace), by_guide)
        self._layout = layout  # last: a pair that failed a check is checked again when asked again

    @property
    def layout(self) -> Layout:
        """The data plate and the number of plate dimensions."""
        if self._layout is None:
            raise RuntimeError(
                "Pair: the pair has not been run on data yet; call pair.initialize(data) or fit it first"
            )
        return self._layout

    @property
    def data_plate(self) -> str | None:
        """The name of the plate of the datum (None: not known yet, or a pair without data)."""
        return self._layout.axis.name if self._layout is not None and self._layout.axis else self._data_plate

    @property
    def latents(self) -> dict[str, Site]:
        """The latent sites of the model that the guide has a posterior of, in the model's order."""
        self.layout  # noqa: B018  (raises when not initialized)
        return {name: self._model_sites[name] for name in self._latent if name not in self._summed}

    @property
    def summed(self) -> dict[str, Site]:
        """The latent sites of the model alone that are summed out of p (marked for enumeration, not in the guide)."""
        self.layout  # noqa: B018
        return {name: self._model_sites[name] for name in self._latent if name in self._summed}

    @property
    def enumerated(self) -> frozenset[str]:
        """The sites of the guide that are marked for enumeration: an ELBO takes their exact expectation."""
        self.layout  # noqa: B018
        return self._enumerated

    @property
    def observed(self) -> dict[str, Site]:
        """The observed sites of the model."""
        self.layout  # noqa: B018
        return {name: self._model_sites[name] for name in self._observed}

    @property
    def has_global_latents(self) -> bool:
        """Does a density outside the data plate tie the data together (a latent, an autoguide's draw, a factor)?"""
        latents = (*self.latents.values(), *self.summed.values())
        return any(not site.is_local for site in latents) or bool(self._tied)

    @property
    def params(self) -> dict[str, Tensor]:
        """Every parameter in its constrained space, by name, as detached CPU tensors."""
        self.layout  # noqa: B018
        return self.parameters.constrained()

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The live unconstrained leaves by name: what an optimizer moves."""
        self.layout  # noqa: B018
        return dict(self.parameters.leaves)

    def buffers_by_name(self) -> dict[str, Tensor]:
        """The live buffers of the pair's modules (running means and the like) by name."""
        return buffers_of(self.model, self.guide)

    def frozen_by_name(self) -> dict[str, Tensor]:
        """The parameters of the pair's modules that are not trained (``requires_grad`` is False), by name."""
        trained = {id(leaf) for leaf in self.parameters_by_name().values()}
        return {
            f"frozen{i or ''}.{name}": leaf
            for i, module in enumerate(self.modules())
            for name, leaf in module.named_parameters()
            if id(leaf) not in trained
        }

    def require_local(self, what: str) -> None:
        """Raise :class:`GlobalLatentError` if a latent stands outside the data plate."""
        shared = [name for name, site in self.latents.items() if not site.is_local]
        shared = shared or self._tied
        if shared and self.layout.axis is not None:
            at = ", ".join(map(repr, shared))
            raise GlobalLatentError(
                f"{what}: a value per datum needs latents of each datum's own, but {at} stand outside the data plate "
                f"{self.data_plate!r} and tie all data together"
            )

    def require_density(self, what: str) -> None:
        """Raise ValueError if the guide is a point mass (``AutoDelta``): it has no density to weigh draws by."""
        if self._point_masses:
            at = ", ".join(map(repr, self._point_masses))
            raise ValueError(
                f"{what}: a guide with a density is required, but it gives {at} a point mass (as AutoDelta does): "
                "log p(x, z) at one point says nothing of the evidence; fit a guide with a spread, such as AutoNormal"
            )

    @property
    def is_exact(self) -> bool:
        """Is log p(x, z) - log q(z | x) log p(x) itself, as for an exact flow and its encoder?"""
        self.layout  # noqa: B018  (raises when not initialized)
        return self._is_exact

    @property
    def counts_volume(self) -> bool:
        """Is p(x | z) a point, whose site counts the volume of a z that the guide gives (a flow)?"""
        self.layout  # noqa: B018  (raises when not initialized)
        return self._counts_volume

    def require_spread(self, what: str) -> None:
        """Raise ValueError if p(x | z) is a point (a flow): a z from elsewhere than the guide never gives this x."""
        if self._counts_volume:
            raise ValueError(
                f"{what}: a p(x | z) with a spread is required, but this one is a point mass (a flow's decoder): no z "
                "of the prior decodes to the very x; let the guide propose, as in ImportanceWeighted(1)"
            )

    def require_batchable(self) -> None:
        """Raise if this guide cannot be trained on mini-batches (an autoguide with a posterior per row)."""
        local = [name for name, site in self.latents.items() if site.is_local]
        if isinstance(self.guide, AutoGuide) and local and not self.layout.axis.subsampled:  # type: ignore[union-attr]
            raise DataAxisError(
                f"{type(self.guide).__name__}: it keeps one posterior of {', '.join(map(repr, local))} per row that it "
                "was set up with, so mini-batches would share them; fit without batch_size, or use guides.MeanField"
            )

    def takes(self, argument: str) -> bool:
        """Does the model or the guide name this argument?"""
        return names(self.model, argument) or names(self.guide, argument)

    # -- running it ----------------------------------------------------------------------------------------------------

    def run(
        self,
        batch: Batch,
        *,
        num_particles: int | None = None,
        values: Mapping[str, Tensor] | None = None,
        enumerated: Collection[str] = (),
        in_pieces: bool = True,
    ) -> Execution:
        """One run of guide and model with gradients, for objectives; call it inside :meth:`scope`."""
        return run_pair(
            self._model_call,
            self._guide_call,
            batch,
            self.layout,
            num_particles=num_particles,
            values=values,
            enumerated=enumerated,
            summed=self._summed,
            in_pieces=in_pieces,
        )

    def rescore_guide(self, batch: Batch, run: Execution) -> dict[str, SiteScore]:
        """Run the guide anew at the values that ``run`` has drawn: densities on parameters as they are frozen now."""
        values = {n: s["value"] for n, s in sample_sites(run.guide_trace) if not s["is_observed"]}
        guide = with_particles(self._guide_call, self.layout, run.num_particles)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* was not registered in the param store because requires_grad=False")
            with same_rows(run.guide_trace):
                trace = poutine.trace(Substitute(values)(guide)).get_trace(batch)
        return Execution(trace, trace, self.layout, run.num_particles).score_model()

    def runs(self, batch: Batch, num_particles: int, *, enumerate: bool = False) -> list[Execution]:
        """``num_particles`` runs: a single vectorized one where the pair allows it, else one after the other.

        With ``enumerate`` the sites that the guide marks so take all their values instead of being drawn.
        """
        sites = self._enumerated if enumerate else frozenset()
        if sites:
            self.require_enumerable(batch)
        if num_particles == 1:
            return [self.run(batch, enumerated=sites)]
        if self.vectorizes(batch):
            return [self.run(batch, num_particles=num_particles, enumerated=sites)]
        first = self.run(batch, enumerated=sites)
        # A pair that draws a subsample itself: draws of a datum are weighed together, so all are of the same rows.
        with same_rows(first.guide_trace, first.model_trace):
            return [first, *(self.run(batch, enumerated=sites) for _ in range(num_particles - 1))]

    def vectorizes(self, batch: Batch) -> bool:
        """Can many draws be made in one run? Found by comparing such a run with the same draws one by one."""
        return self._checked("vectorizes", batch, vectorizes)

    def require_enumerable(self, batch: Batch) -> None:
        """Raise ValueError if the pair does not give, with all values of its marked sites at once, what it gives alone.

        Found by comparing, for each shape of data, like :meth:`vectorizes`.
        """
        self._checked("enumerable", batch, require_enumerable)

    def _checked(self, what: str, batch: Batch, check: Callable[[Any, Batch], Any]) -> Any:
        """What a check finds, made once for each shape of data, on noise of its own, at slightly shaken parameters."""
        key = (what, shape_key(batch))
        if key not in self._checks:
            noise, still = isolated_rng(fold(0, what), self.device), self.mode(training=False)
            with torch.no_grad(), noise, still, shaken(self.parameters.leaves.values()):
                self._checks[key] = check(self, batch)
        return self._checks[key]

    def _as_batch(self, data: Any) -> Batch:
        if isinstance(data, Batch):
            return data
        rows = self.rows(data)
        self.require_whole_rows(rows)
        return rows.batch()

    def require_whole_rows(self, rows: Source) -> None:
        """Raise :class:`DataAxisError` if the pair draws a subsample of the rows that it is given."""
        self.initialize(rows)
        axis = self.layout.axis
        if axis is not None and axis.subsampled:
            raise DataAxisError(
                f"Pair: the plate {axis.name!r} draws its own subsample, so single rows cannot be evaluated; give the "
                "model and the guide the rows and let `fit(batch_size=...)` make the mini-batches"
            )

    def _as_values(self, values: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        latents = self.latents
        if not isinstance(values, Mapping):
            if len(latents) != 1:
                raise ValueError(f"Pair: values by site are required for the latents {sorted(latents)}, got one tensor")
            values = {next(iter(latents)): values}
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in ((n, torch.as_tensor(v)) for n, v in values.items())
        }


def _global_store() -> dict[str, Any]:
    import pyro

    return dict(pyro.get_param_store().get_state())
