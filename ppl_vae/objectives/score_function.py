"""The score function estimator of the ELBO's gradient, with baselines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.baselines import Baseline
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.objectives.weighted_draws import require_weights_per_datum, weighted_draws
from ppl_vae.pair import Pair


class ScoreFunction(Objective):
    r"""The ELBO of a guide with discrete draws, by the score function (REINFORCE), less a baseline.

    .. math:: \nabla_\phi L = E_q\big[(\log w - b)\, \nabla_\phi \log q_\phi(z \mid x)\big],
        \quad \log w = \log p_\theta(x, z) - \log q_\phi(z \mid x)

    Per datum: log w of one datum never enters another's signal. Reparametrized sites of the same guide keep their
    pathwise gradient. ``ScoreFunction((RunningAverage(), Neural(net)))`` is NVIL without its variance normalization.

    Args:
        baseline: ``RunningAverage()``, ``Neural(net)``, several of them one after the other (each has to predict what
            those before it have left), or None.
        num_particles: draws of z a datum, averaged.

    Raises:
        GlobalLatentError: where latents stand outside the data plate.
        ValueError: where a site is weighted with ``poutine.scale``, or the guide leaves out a latent.

    Sources: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    1992; Mnih, Gregor, "Neural Variational Inference and Learning in Belief Networks", 2014.
    """

    def __init__(self, baseline: Baseline | Iterable[Baseline] | None = None, *, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        given = () if baseline is None else (baseline,) if isinstance(baseline, nn.Module) else baseline
        given = tuple(given) if isinstance(given, Iterable) else (given,)
        for one in given:
            if not isinstance(one, Baseline):
                raise TypeError(f"ScoreFunction: a baseline such as RunningAverage() is required, got {one!r}")
        self.baselines = nn.ModuleList(given)

    def __repr__(self) -> str:
        shown = [repr(one) for one in self.baselines]
        parts = [shown[0] if len(shown) == 1 else f"({', '.join(shown)})"] if shown else []
        parts += [f"num_particles={self.num_particles}"] if self.num_particles > 1 else []
        return f"ScoreFunction({', '.join(parts)})"

    def parameters(self) -> dict[str, Tensor]:
        """The parameters of neural baselines."""
        return {f"baseline{name}": p for name, p in self.baselines.named_parameters() if p.requires_grad}

    def buffers(self) -> dict[str, Tensor]:
        """Running averages, and what of a network is not trained."""
        untrained = {name: p for name, p in self.baselines.named_parameters() if not p.requires_grad}
        return {f"baseline{name}": b for name, b in {**dict(self.baselines.named_buffers()), **untrained}.items()}

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the baselines to where the pair is."""
        self.baselines.to(device=device, dtype=dtype)

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the bound on a batch."""
        require_weights_per_datum(self, pair)
        draws = weighted_draws(self, pair, batch)
        signal, psi = draws.log_w.detach(), None
        if torch.is_grad_enabled():
            signal, psi = self._without_baselines(signal, batch)
        surrogates = dict.fromkeys(("theta", "phi"), draws.surrogate(signal))
        return draws.terms(draws.log_w.mean(0), surrogates if psi is None else {**surrogates, "psi": psi})

    def _without_baselines(self, signal: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The signal (S, B) less all baselines, and what is to be maximized in their parameters."""
        psi: Tensor | None = None
        for baseline in cast(Iterable[Baseline], self.baselines):
            value = baseline(batch)
            if value.dim() and value.shape != signal.shape[1:]:
                raise ValueError(
                    f"ScoreFunction: {baseline!r} gave {value.shape[0]} numbers for {signal.shape[1]} data: a pair "
                    "that draws a subsample itself has no baseline by datum"
                )
            learned = baseline.learn(signal, value)
            if learned is not None:
                psi = learned if psi is None else psi + learned
            signal = signal - value.detach()
        return signal, psi
