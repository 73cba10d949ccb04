"""What must not have changed: the bits of trainings, and the values of log densities and evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import ELBO, IWAE, Alternating, KeepBest, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.evidence import ImportanceWeighted, log_evidence
from ppl_vae.guides import AmortizedNormal, EnumeratedCategorical, SampledCategorical
from ppl_vae.models import VAE, DiscreteVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import RLOO
from ppl_vae.result import Fit
from ppl_vae.training import EachStep


def digits() -> Tensor:
    """210 binary digits: batches of 50 leave one of 10."""
    return load_digits(binary=True).train[:210]


def vae() -> tuple[Any, Any]:
    """A small VAE with dropout and batch normalization in its guide."""
    encoder = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 8))
    return VAE(MLP(4, 64, hidden=(16,)), latent_dim=4, likelihood="bernoulli"), AmortizedNormal(encoder, latent_dim=4)


def codes() -> tuple[Any, Any]:
    """One latent of six classes, which its guide gives whole."""
    sizes = {"num_latents": 1, "num_classes": 6}
    model = DiscreteVAE(MLP(6, 64, hidden=(16,)), likelihood="bernoulli", **sizes)
    return model, EnumeratedCategorical(MLP(64, 6, hidden=(16,)), **sizes)


def drawn_codes() -> tuple[Any, Any]:
    """The same, drawn from the guide."""
    sizes = {"num_latents": 1, "num_classes": 6}
    model = DiscreteVAE(MLP(6, 64, hidden=(16,)), likelihood="bernoulli", **sizes)
    return model, SampledCategorical(MLP(64, 6, hidden=(16,)), **sizes)


def functions() -> tuple[Any, Any]:
    """A pair of plain functions with lazily made parameters and a global latent."""

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", lambda: torch.rand(64) + 0.5, constraint=dist.constraints.positive)
        loc = pyro.sample("loc", dist.Normal(torch.zeros(64), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        mean = pyro.param("mean", lambda: torch.randn(64))
        spread = pyro.param("spread", torch.ones(64), constraint=dist.constraints.positive)
        pyro.sample("loc", dist.Normal(mean, spread).to_event(1))

    return model, guide


def run(make: Callable[[], Any], options: dict[str, Any] | None = None, data: Any = None, **fit: Any) -> Fit:
    """A short fit from a seed."""
    torch.manual_seed(0)
    model, guide = make()
    em = VariationalEM(model, guide, **{"lr": 0.01, "compile": False, **(options or {})})
    return em.fit(digits() if data is None else data, seed=5, progress=False, **fit)


def loader() -> DataLoader[Any]:
    """Shuffled batches of 50."""
    return DataLoader(TensorDataset(digits()), batch_size=50, shuffle=True)


TRAININGS: dict[str, Callable[[], Fit]] = {
    "a VAE, mini-batches": lambda: run(vae, epochs=3, batch_size=50),
    "IWAE, validation, the best kept": lambda: run(
        vae, {"objective": IWAE(3)}, epochs=3, batch_size=50, validation=digits()[:20], callbacks=[KeepBest()]
    ),
    "alternating, clipped": lambda: run(
        vae, {"schedule": Alternating(2, 1), "clip_norm": 1.0}, epochs=3, batch_size=50
    ),
    "warm-up, a rate that falls": lambda: run(
        vae, {"lr_scheduler": EachStep(partial(CosineAnnealingLR, T_max=20))}, epochs=4, batch_size=50
    ),
    "a DataLoader": lambda: run(vae, data=loader(), epochs=3),
    "enumerated codes": lambda: run(codes, epochs=3, batch_size=50),
    "drawn codes, RLOO": lambda: run(drawn_codes, {"objective": RLOO(3)}, epochs=2, batch_size=50),
    "functions, a global latent": lambda: run(functions, epochs=3, batch_size=50),
    "all rows, two particles": lambda: run(functions, {"objective": ELBO(num_particles=2)}, steps=60),
    "compiled": lambda: run(vae, {"compile": True}, epochs=4, batch_size=70),
}


def trained(name: str) -> str:
    """A digest of the bits of parameters, persistent buffers and history that a training ends with."""
    fit = TRAININGS[name]()
    digest = hashlib.sha256()
    modules = [part for part in (fit.model, fit.guide) if isinstance(part, nn.Module)]
    for tensors in (fit.params, *(module.state_dict() for module in modules)):
        for key in sorted(tensors):
            digest.update(key.encode() + tensors[key].detach().contiguous().numpy().tobytes())
    digest.update(fit.history.to_numpy().round(9).tobytes())
    return digest.hexdigest()[:16]


def densities() -> list[float]:
    """Log densities and evidence in float64, of pairs after a short training."""
    found: list[float] = []
    for make in (vae, codes, functions):
        fit = run(make, {"dtype": torch.float64}, steps=5)
        x = digits()[:7].double()
        draws = fit.draw(x, 3, seed=1)
        estimate = log_evidence(fit, x, ImportanceWeighted(20))
        found += [*draws.log_p.total.flatten().tolist(), *draws.log_q.total.flatten().tolist()]
        found += [*fit.log_joint(x, draws.values).total.flatten().tolist(), *estimate.value.flatten().tolist()]
        found += fit.elbo(x, num_samples=8).flatten().tolist()
    return found
