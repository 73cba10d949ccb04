"""Flows and transformations of zuko as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from ppl_vae import _private as private
from ppl_vae.flows.layer import Coded, Layer, event_dims
from ppl_vae.flows.shapes import event_shape_or_any, sum_event


def from_zuko(
    flow: nn.Module | Callable[[ModuleType], nn.Module],
    *,
    shape: int | Sequence[int] | None = None,
    context_dim: int | None = None,
) -> ZukoLayer:
    """A flow of zuko (neural spline, neural autoregressive, continuous, ...) as a layer.

    z = f(x | c),  contribution = log|det df/dx|, as the flow's ``transform`` has them. The flow's base distribution is
    left behind: p(z) belongs to the pair.

    zuko's import switches torch's argument validation off for the whole process. Given as a function of the module,
    the flow is built after an import that leaves validation as it was.

    Args:
        flow: a ``zuko.flows.Flow``, a lazy transformation, or a function that is given the module ``zuko`` and
            returns one of these: ``from_zuko(lambda zuko: zuko.flows.NSF(8, context=3), context_dim=3)``.
        shape: the size of x; found from a flow that has a base, and needed for nothing else.
        context_dim: the size of the context that the flow was built for; None for an unconditional one.

    Returns:
        The layer; the parameters are those of the flow's transformation.

    Raises:
        ImportError: zuko is not installed (``pip install 'ppl-vae[flows]'``).
        TypeError: something else than a flow or a lazy transformation.

    >>> import torch
    >>> layer = from_zuko(lambda zuko: zuko.flows.NSF(3, transforms=1, hidden_features=(16,)))
    >>> layer.encode(torch.zeros(5, 3))[1].shape
    torch.Size([5])
    """
    zuko = import_zuko()
    built = flow if isinstance(flow, nn.Module) else flow(zuko)
    if isinstance(built, zuko.lazy.Flow):
        base = built.base(None).event_shape if context_dim is None and shape is None else None
        return ZukoLayer(built.transform, shape=base or shape, context_dim=context_dim)
    if isinstance(built, zuko.lazy.LazyTransform):
        return ZukoLayer(built, shape=shape, context_dim=context_dim)
    raise TypeError(f"from_zuko: a flow or a lazy transformation of zuko is required, got {type(built).__name__}")


class ZukoLayer(Layer):
    """What :func:`from_zuko` makes.

    Args:
        transform: a module that is called on a context, or None, and returns a transformation from x to z.
        shape: the event shape; None for vectors of any size.
        context_dim: the size of the context.
    """

    def __init__(
        self, transform: nn.Module, *, shape: int | Sequence[int] | None = None, context_dim: int | None = None
    ) -> None:
        event = event_shape_or_any("from_zuko", shape)
        super().__init__(event, event, context_dim=context_dim)
        self.transform = transform

    def _encode(self, x: Tensor, context: Tensor | None) -> Coded:
        return self._call(self._at(x, context), x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Coded:
        x, log_det = self._call(self._at(z, context).inv, z)
        return x, -log_det

    def _at(self, value: Tensor, context: Tensor | None) -> Any:
        if context is not None:
            context = context.expand(*self._leading(value, self.shape_in), context.shape[-1])
        return self.transform(context)

    def _call(self, transform: Transform, value: Tensor) -> Coded:
        result, log_det = transform.call_and_ladj(value)  # type: ignore[attr-defined]  # zuko adds it to all
        return result, sum_event(log_det, event_dims(self.shape_in)) if _elementwise(transform) else log_det


def import_zuko() -> ModuleType:
    """The module, with torch's argument validation left as it was.

    Raises:
        ImportError: it is not installed.
    """
    before = private.validates()
    try:
        import zuko
    except ImportError as error:
        raise ImportError("from_zuko: zuko is required; pip install 'ppl-vae[flows]'") from error
    finally:
        Distribution.set_default_validate_args(before)
    return zuko


def _elementwise(transform: Transform) -> bool:
    return transform.domain.event_dim == 0
