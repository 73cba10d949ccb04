"""The coupling layer of neural spline flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ppl_vae.flows.coupling import HALF, Coupling
from ppl_vae.flows.layer import Coded
from ppl_vae.flows.masks import Mask
from ppl_vae.flows.spline import num_params, spline, spline_inverse


class SplineCoupling(Coupling):
    """Each moved number goes through a monotonic rational-quadratic spline, with parameters from a network of x_kept.

    z_d = spline(x_d) for |x_d| < bound, z_d = x_d outside; contribution = sum of log spline'(x_d).

    Args:
        dim: D, the size of x and of z, at least 2.
        bins: K, the number of bins of a spline; a moved number takes 3 K - 1 parameters.
        bound: the spline moves what lies in [-bound, bound], so data should be standardized.
        mask, hidden, activation, context_dim: as for ``AffineCoupling``.

    Raises:
        ValueError: a dim that leaves nothing to keep or to move, bins < 2, bound <= 0.

    Source: C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, "Neural spline flows", 2019.
    """

    def __init__(
        self,
        dim: int,
        *,
        bins: int = 8,
        bound: float = 5.0,
        mask: Mask = HALF,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context_dim: int | None = None,
    ) -> None:
        if bins < 2 or not bound > 0:
            raise ValueError(f"SplineCoupling: bins >= 2 and bound > 0 are required, got bins={bins}, bound={bound}")
        super().__init__(
            dim,
            num_params=num_params(bins),
            mask=mask,
            hidden=hidden,
            activation=activation,
            context_dim=context_dim,
        )
        self.bound = bound

    def _move(self, value: Tensor, params: Tensor) -> Coded:
        moved, log_slopes = spline(value, params.unflatten(-1, (value.shape[-1], -1)), bound=self.bound)
        return moved, log_slopes.sum(-1)

    def _move_back(self, value: Tensor, params: Tensor) -> Coded:
        moved, log_slopes = spline_inverse(value, params.unflatten(-1, (value.shape[-1], -1)), bound=self.bound)
        return moved, log_slopes.sum(-1)

    def extra_repr(self) -> str:
        """Say the mask and the square."""
        return f"{super().extra_repr()}, bound={self.bound:g}"
