"""Every private name of torch and Pyro that the house uses: looked up when it is first needed, and missed without harm.

Libraries move such names between versions. So nothing here is looked up by an import, ``torch._inductor`` least of all;
where a name is not there any more, :func:`missing` says which, and steps run eagerly. No other file uses a private name
of theirs (tests/test_structure.py).
"""

from __future__ import annotations

import functools
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

# By the name that it has here, the module and the path in it.
_TRACING = {
    "handler_stack": "pyro.poutine.runtime:_PYRO_STACK",
    "fulldot": "pyro.infer.util:_fulldot",
    "validate_sample": "torch.distributions:Distribution._validate_sample",
    "make_fx": "torch.fx.experimental.proxy_tensor:make_fx",
    "proxy_mode": "torch.fx.experimental.proxy_tensor:get_proxy_mode",
    "disable_current_modes": "torch.utils._python_dispatch:_disable_current_modes",
    "tree_leaves": "torch.utils._pytree:tree_leaves",
    "OpOverload": "torch:_ops.OpOverload",
}
_UPDATING = {
    "global_pre_hooks": "torch.optim.optimizer:_global_optimizer_pre_hooks",
    "global_post_hooks": "torch.optim.optimizer:_global_optimizer_post_hooks",
    "fused_adam": "torch:_fused_adam_",
    "fused_adamw": "torch:_fused_adamw_",
    "fused_sgd": "torch:_fused_sgd_",
    "fused_adagrad": "torch:_fused_adagrad_",
    "each_add": "torch:_foreach_add_",
    "each_sub": "torch:_foreach_sub",
    "each_mul": "torch:_foreach_mul_",
    "each_addcmul": "torch:_foreach_addcmul_",
    "each_addcdiv": "torch:_foreach_addcdiv_",
    "each_sqrt": "torch:_foreach_sqrt",
    "each_clamp_min": "torch:_foreach_clamp_min",
    "each_clamp_max": "torch:_foreach_clamp_max",
}
_COMPILING = {
    "aot_compile": "torch._inductor:aot_compile",
    "cache_dir": "torch._inductor.runtime.cache_dir_utils:cache_dir",
    "cpp_compiler": "torch._inductor.cpp_builder:get_cpp_compiler",
    "LibraryRunner": "torch:_C._aoti.AOTIModelContainerRunnerCpu",
}
# Without these a compiled step is slower, or some are not compiled.
_OPTIONAL = {
    "default_cache_dir": "torch._inductor.runtime.cache_dir_utils:default_cache_dir",
    "compile_fx": "torch._inductor.compile_fx:compile_fx",
    "CppBuilder": "torch._inductor.cpp_builder:CppBuilder",
    "CppTorchOptions": "torch._inductor.cpp_builder:CppTorchOptions",
    "pick_vec_isa": "torch._inductor.cpu_vec_isa:pick_vec_isa",
}
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The tables of hooks that every ``torch.nn.Module`` has."""
# Without it every KL is drawn (``distributions/kl.py``).
_RULES = {"kl_rules": "torch.distributions.kl:_KL_REGISTRY"}
# What is read off objects: an object of each kind, and the attributes.
_MEMBERS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "Tensor": (lambda: torch.zeros(()), ("_version", "_backward_hooks", "_post_accumulate_grad_hooks")),
    "nn.Module": (torch.nn.Module, (*MODULE_HOOKS, "_parameters", "_buffers", "_modules")),
    "optim.Optimizer": (lambda: _some_optimizer(), ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")),
    "OpOverload": (lambda: torch.ops.aten.add.Tensor, ("_schema",)),
    "ParamStoreDict": (lambda: type(pyro.get_param_store())(), ("_params", "_param_to_name")),
}


def __getattr__(name: str) -> Any:
    """A private name of a library's, by the name that it has here.

    Raises:
        AttributeError: the library that is installed has no such name.
    """
    for table in (_TRACING, _UPDATING, _COMPILING, _OPTIONAL, _RULES):
        if name in table:
            globals()[name] = found = _found(table[name])  # the next look-up does not come here
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _by_name(name: str) -> Any:
    """A name of the tables, looked up once."""
    return globals()[name] if name in globals() else __getattr__(name)


def _found(address: str) -> Any:
    module, _, path = address.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a module of torch's warns of when it is imported is its own affair
            return operator.attrgetter(path)(import_module(module))
    except Exception as error:  # what else an import may raise is torch's choice, and comes to the same
        raise AttributeError(_lacks(f"{module}.{path}")) from error


def _lacks(name: str) -> str:
    library = pyro if name.startswith(("pyro.", "ParamStoreDict.")) else torch
    return f"{library.__name__} {library.__version__} has no {name}, which captured steps or closed forms need"


@functools.cache
def missing(*, compiler: bool = False) -> str | None:
    """The first name without which no step can be captured with the installed torch and Pyro, as a reason; or None.

    Args:
        compiler: of the names that compiling needs, which takes an import of seconds.
    """
    addresses = _COMPILING if compiler else {**_TRACING, **_UPDATING}
    return next(_reasons(addresses.values()), None) or (None if compiler else _missing_member())


def _reasons(addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        try:
            _found(address)
        except AttributeError as error:
            yield str(error)


def _missing_member() -> str | None:
    for kind, (example, names) in _MEMBERS.items():
        thing = example()
        for name in names:
            if not hasattr(thing, name):
                return _lacks(f"{kind}.{name}")
    return None


# -- what is read off objects ------------------------------------------------------------------------------------------

version = operator.attrgetter("_version")
"""How often a tensor has been changed in place."""
backward_hooks = operator.attrgetter("_backward_hooks")
accumulate_hooks = operator.attrgetter("_post_accumulate_grad_hooks")


def step_hooks(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """The hooks around an optimizer's step: its own, and those of every optimizer."""
    own = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return (*own, _by_name("global_pre_hooks"), _by_name("global_post_hooks"))


def note_step(optimizer: torch.optim.Optimizer) -> None:
    """Let torch's schedulers, which ask whether the optimizer has made a step, know that it has."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def is_mutable(overload: Any) -> bool:
    """Does an operator of torch's change its arguments?"""
    return bool(overload._schema.is_mutable)


def stored(store: Any) -> dict[str, Tensor]:
    """The unconstrained leaves of a parameter store by name, live."""
    leaves: dict[str, Tensor] = store._params
    return leaves


def stored_names(store: Any) -> dict[Tensor, str]:
    """The names of a parameter store by leaf, live."""
    names: dict[Tensor, str] = store._param_to_name
    return names


def handlers() -> list[Any]:
    """Pyro's stack of active handlers, live."""
    stack: list[Any] = getattr(pyro.poutine.runtime, "_PYRO_STACK", [])
    return stack


@contextmanager
def no_handlers() -> Iterator[None]:
    """Pyro's handler stack empty, and given back: what a caller has put around a call (a mask, a plate) stays his."""
    stack, allocator = handlers(), getattr(pyro.poutine.runtime, "_DIM_ALLOCATOR", None)
    active, plates = list(stack), getattr(allocator, "_stack", None)
    stack.clear()
    if allocator is not None:
        allocator._stack = []
    try:
        yield
    finally:
        stack[:] = active
        if allocator is not None:
            allocator._stack = plates


def validates() -> bool:
    """Do distributions check their arguments, as ``Distribution.set_default_validate_args`` has it?"""
    return bool(getattr(Distribution, "_validate_args", __debug__))


def declared_parameters(module: torch.nn.Module) -> dict[str, Any]:
    """The ``PyroParam``s of a ``PyroModule`` by name: (constraint, event_dim)."""
    return getattr(module, "_pyro_params", {})


def pyro_name(module: torch.nn.Module) -> str:
    """What a ``PyroModule`` is called in the names of its sites; "" for another module."""
    return getattr(module, "_pyro_name", "")


def random_attributes(module: torch.nn.Module) -> Any:
    """The ``PyroSample``s of a module by name; None or empty where it has none."""
    return getattr(module, "_pyro_samples", None)


def module_context(module: torch.nn.Module) -> Any:
    """What a ``PyroModule`` shares with the modules inside it; None for another module."""
    return getattr(module, "_pyro_context", None)


# -- torch.optim without torch's compiler ------------------------------------------------------------------------------

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _is_loaded() -> bool:
    return "torch._dynamo" in sys.modules


@contextmanager
def without_compiler() -> Iterator[None]:
    """Make or load optimizers of torch's in this block without importing the compiler, which takes a second.

    torch shields some of their methods from its compiler, and imports it for that at the first call of each. Nothing
    needs a shield from what is not there. Where it is, or torch has changed, the block runs as it is.
    """
    with ExitStack() as after:
        for method in () if _is_loaded() else map(functools.partial(getattr, torch.optim.Optimizer), _WRAPPED):
            inner = getattr(method, "__wrapped__", None)
            if inner is not None and not hasattr(inner, "__dynamo_disable"):
                inner.__dynamo_disable = inner
                after.callback(delattr, inner, "__dynamo_disable")
        yield


def _some_optimizer() -> torch.optim.Optimizer:
    with without_compiler():
        return torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=0.0)


def step(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()``, to the bit, without importing torch's compiler for the marks that torch leaves for it.

    Hooks, subclasses and wrappers of the caller's are called as ever.
    """
    if _is_loaded() or not _is_plain(optimizer):
        optimizer.step()
        return
    if "step" in vars(optimizer):
        note_step(optimizer)
    with torch.set_grad_enabled(optimizer.defaults.get("differentiable", False)):
        _layers(type(optimizer).step)[-1](optimizer)


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Is the step torch's own, with nothing of anybody's around it but a scheduler's count?"""
    own = vars(optimizer).get("step")
    try:
        is_free = not any(step_hooks(optimizer)) and (own is None or hasattr(own, "_wrapped_by_lr_sched"))
    except AttributeError:
        return False
    return is_free and all(fn.__globals__["__name__"].startswith("torch.") for fn in _layers(type(optimizer).step))


def _layers(fn: Any) -> list[Any]:
    """A function and what it wraps, to the innermost."""
    layers = [fn]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    return layers


def flags_of(masked: Any) -> Any:
    """The mask of a ``MaskedDistribution``: a bool, or a tensor over its batch shape."""
    return masked._mask
