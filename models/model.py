"""How every model is called."""

from __future__ import annotations

from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.models.decoding import num_data


class Model(PyroModule):
    """A Pyro model p_θ(x, z) of rows: its one call, whose arguments are read here once for all.

    Implementing a new one: subclass and write ``sample_sites``. A subclass is for the reader; any callable that makes
    sample statements is a model to :class:`ppl_vae.Pair`.
    """

    def forward(
        self,
        x: Tensor | None = None,
        *,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        num_samples: int | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            x: (N, *event) data, or None to draw it.
            y: (N, ...), what else is given with x, where the model knows of something: labels (long, -1 where
                unlabeled; None: all of them are latent), or the context of a conditional flow.
            mask: (N, *event) boolean, True where an entry of x is observed; the others (NaN allowed) count
                nothing. None: all are. A flow takes no other.
            num_samples: N, where there is no x.

        Returns:
            x, drawn or observed, (..., N, *event).

        Raises:
            ValueError: neither x nor num_samples, or two that differ; a mask that does not fit x.
        """
        return self.sample_sites(x, y, mask, num_data(x, num_samples, who=type(self).__name__))

    def sample_sites(self, x: Tensor | None, y: Tensor | None, mask: Tensor | None, size: int) -> Tensor:
        """Make the model's sample statements, for the arguments of a call and the number of rows."""
        raise NotImplementedError(f"{type(self).__name__}: a model must define sample_sites(x, y, mask, size)")
