"""Whose parameters are whose: θ is reached by the model, φ by the guide, and what both reach is shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import normalize_param_name
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae._private import declared_parameters, module_context
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.reach import modules_of, owned_module


def allow_local_params(modules: Iterable[nn.Module]) -> None:
    """Let PyroModules that were made before ``module_local_params`` was on (any caller's) run under it.

    Pyro (1.9) gives a module's context its ``param_state`` only when the setting is on while the module is made.
    """
    for module in modules:
        for part in module.modules():
            context = module_context(part)
            if context is not None and not hasattr(context, "param_state"):
                context.param_state = {"params": {}, "constraints": {}}


def reached(tensors: Iterable[Any]) -> dict[int, Tensor]:
    """The leaf tensors, by id, from which these tensors were computed with a gradient."""
    found: dict[int, Tensor] = {}
    stack: list[Any] = []
    seen: set[Any] = set()
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            if tensor.grad_fn is None:
                found[id(tensor)] = tensor
            else:
                stack.append(tensor.grad_fn)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # the node AccumulateGrad holds its leaf
        if leaf is not None:
            found[id(leaf)] = leaf
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return found


def reached_by(trace: Trace) -> dict[int, Tensor]:
    """The leaves that the values and log densities of a trace depend on."""
    terms: list[Any] = []
    for _, site in sample_sites(trace):
        terms += [site["value"], site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])]
    return reached(terms)


@dataclass
class Parameters:
    """The parameters of a pair by name: unconstrained leaves, their constraints, the group of each.

    ``group[name]`` is ``"theta"``, ``"phi"`` or ``"shared"``.
    """

    leaves: dict[str, Tensor] = field(default_factory=dict)
    constraints: dict[str, Any] = field(default_factory=dict)
    group: dict[str, str] = field(default_factory=dict)
    stored: int = 0

    def of(self, *groups: str) -> dict[str, Tensor]:
        """The leaves of these groups, by name."""
        return {name: leaf for name, leaf in self.leaves.items() if self.group[name] in groups}

    def newcomers(self) -> list[str]:
        """The parameters of Pyro's present store that are none of these."""
        known = {id(leaf) for leaf in self.leaves.values()}
        store = pyro.get_param_store()
        if len(store) <= self.stored:
            return []
        named = store.named_parameters()
        return [normalize_param_name(name) for name, leaf in named if leaf.requires_grad and id(leaf) not in known]

    def frozen(self, modules: Iterable[nn.Module]) -> dict[str, Tensor]:
        """The parameters of these modules that are none of these: not trained, by name."""
        trained = {id(leaf) for leaf in self.leaves.values()}
        return {
            f"frozen{i or ''}.{name}": leaf
            for i, module in enumerate(modules)
            for name, leaf in module.named_parameters()
            if id(leaf) not in trained
        }

    def constrained(self) -> dict[str, Tensor]:
        """Every parameter in its constrained space, detached, on the CPU."""
        values = {}
        for name, leaf in self.leaves.items():
            constraint = self.constraints.get(name)
            value = leaf.detach() if constraint is None else transform_to(constraint)(leaf.detach())
            values[name if constraint is None else name.removesuffix("_unconstrained")] = value.cpu().clone()
        return values


def _candidates(
    model: Callable[..., Any], guide: Callable[..., Any], store: Mapping[str, Any], guide_trace: Trace
) -> Iterator[tuple[str, Tensor, Any, str]]:
    """Every parameter that is to be trained: its name, leaf, constraint, and owner as far as names tell."""
    for fn, prefix, owner in ((model, "model", "theta"), (guide, "guide", "phi")):
        module = owned_module(fn)
        if module is not None:
            constraints = _pyro_param_constraints(module)
            for name, leaf in module.named_parameters():
                yield f"{prefix}.{name}", leaf, constraints.get(name), owner
    guided = {name for name, site in guide_trace.nodes.items() if site["type"] == "param"}
    for name, leaf in store["params"].items():
        owner = "phi" if name in guided else "theta"
        yield normalize_param_name(name), leaf, store["constraints"].get(name), owner


def _pyro_param_constraints(module: nn.Module) -> dict[str, Any]:
    return {
        f"{path}.{name}_unconstrained".lstrip("."): constraint
        for path, part in module.named_modules()
        if isinstance(part, PyroModule)
        for name, (constraint, _) in declared_parameters(part).items()
    }


def collect(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    store: Mapping[str, Any],
    guide_trace: Trace,
    by_model: Mapping[int, Tensor],
    by_guide: Mapping[int, Tensor],
) -> Parameters:
    """Name every parameter once, and put it into the group of those who reach it.

    ``by_model`` must come from a run of the model at constant latents, for z carries φ into log p. A parameter that
    this run did not reach (of a branch not taken) belongs to its owner.
    """
    params, names = Parameters(stored=len(store["params"])), {}
    for name, leaf, constraint, owner in _candidates(model, guide, store, guide_trace):
        if not leaf.requires_grad or id(leaf) in names:
            continue
        names[id(leaf)] = name
        params.leaves[name] = leaf
        if constraint is not None:
            params.constraints[name] = constraint
        both = (id(leaf) in by_model, id(leaf) in by_guide)
        params.group[name] = {(True, True): "shared", (True, False): "theta", (False, True): "phi"}.get(both, owner)
    _warn_of_strangers([leaf for key, leaf in {**by_model, **by_guide}.items() if key not in names])
    return params


def _warn_of_strangers(leaves: list[Tensor]) -> None:
    if leaves:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves[:4]) + (", ..." if len(leaves) > 4 else "")
        warnings.warn(
            f"Pair: {len(leaves)} tensors that require a gradient (shapes {shapes}) "
            "are used but unknown to Pyro, and will not be trained; register them with pyro.module or pyro.param, or "
            "make the model or guide a module that holds them",
            stacklevel=2,
        )


def buffers_of(*fns: Any, every: bool = False) -> dict[str, Tensor]:
    """The buffers of the modules that stand behind these functions, each once, by name.

    Those that their module does not keep in its state (``persistent=False``) are its own matter, unless ``every`` one
    is asked for.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, fn in zip(("model", "guide"), fns, strict=False):
        for i, module in enumerate(modules_of(fn)):
            kept = module.state_dict(keep_vars=True)
            for name, buffer in module.named_buffers():
                if (every or name in kept) and id(buffer) not in seen:
                    seen.add(id(buffer))
                    found[f"{prefix}{i or ''}.{name}"] = buffer
    return found
