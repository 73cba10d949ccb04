"""How every amortized guide is called."""

from __future__ import annotations

from pyro.nn import PyroModule
from torch import Tensor


class AmortizedGuide(PyroModule):
    """A Pyro guide q_φ(z | x) by networks that see the data: its one call, that of a model.

    Implementing a new one: subclass and write ``sample_sites``. A subclass is for the reader; any callable that makes
    the sample statements of the model's latents is a guide to :class:`ppl_vae.Pair`.
    """

    def forward(
        self,
        x: Tensor | None = None,
        *,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        num_samples: int | None = None,
    ) -> Tensor:
        """Run the guide.

        Args:
            x: (N, *event) data.
            y: (N, ...), what the model is given with x, where the guide knows of it: labels (long, -1 where
                unlabeled; None: there are none), or the context of a conditional flow.
            mask: (N, *event) boolean, True where an entry of x is observed; networks see 0 for the others. None:
                all are. A flow takes no other.
            num_samples: not used: there is no posterior without data.

        Returns:
            The latent, (..., N, *event): of several, the last.

        Raises:
            ValueError: no x; a mask that does not fit x.
        """
        if x is None:
            raise ValueError(
                f"{type(self).__name__}: data x (N, ...) is required, got None; without data, draw from the model"
            )
        return self.sample_sites(x, y, mask)

    def sample_sites(self, x: Tensor, y: Tensor | None, mask: Tensor | None) -> Tensor:
        """Make the guide's sample statements, for the arguments of a call."""
        raise NotImplementedError(f"{type(self).__name__}: a guide must define sample_sites(x, y, mask)")
