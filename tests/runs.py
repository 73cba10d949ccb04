"""Small runs that a loop can get wrong in every way (running means, dropout, a small last batch), and their bits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import VariationalEM
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.result import Fit
from ppl_vae.storage import RunFolder, decode_tree, encode_tree
from ppl_vae.training import GradientStep

NUM_DATA, BATCH = 14, 4  # three batches of 4 rows and one of 2
PER_EPOCH = 4
DIM, LATENT = 3, 2


def data(n: int = NUM_DATA, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """n correlated rows."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, DIM, generator=generator, dtype=torch.float64)
    return (z @ torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], dtype=torch.float64) + 0.3 * noise).to(dtype)


@contextmanager
def seeded(seed: int):
    """Make modules from a seed; the test's own generator stays where it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def networks(seed: int = 0, likelihood: Any = "normal") -> tuple[VAE, AmortizedNormal]:
    """A pair with batch normalization on both sides and dropout in the guide."""
    with seeded(seed):
        decoder = nn.Sequential(nn.Linear(LATENT, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, DIM))
        encoder = nn.Sequential(
            nn.Linear(DIM, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.SiLU(), nn.Linear(5, 2 * LATENT)
        )
        model = VAE(decoder, latent_dim=LATENT, likelihood=likelihood)
        return model, AmortizedNormal(encoder, latent_dim=LATENT)


def plain(seed: int = 0, likelihood: Any = "normal") -> tuple[VAE, AmortizedNormal]:
    """A linear pair without anything stateful."""
    with seeded(seed):
        model = VAE(nn.Linear(LATENT, DIM), latent_dim=LATENT, likelihood=likelihood)
        return model, AmortizedNormal(nn.Linear(DIM, 2 * LATENT), latent_dim=LATENT)


def no_latents(dim: int = DIM) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A model without latents: its loss has no noise, mean((x - mu)²)/2 and a constant."""

    def model(x: Tensor) -> None:
        mu = pyro.param("mu", lambda: torch.zeros(dim))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pass

    return model, guide


@dataclass(frozen=True)
class Run:
    """One way to fit: everything that a second process would write down again to resume it."""

    em: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=lambda: {"batch_size": BATCH})
    pair: Callable[[int], tuple[Any, Any]] = networks
    callbacks: Callable[[], list[Any]] = list
    rows: Callable[[], Any] = data

    def __call__(
        self, steps: int, *, folder: Path | None = None, resume: bool = False, start: int = 0, **options: Any
    ) -> Fit:
        """Run to ``steps`` in all, on modules that were made from the seed ``start``."""
        kept = {} if folder is None else {"checkpoint": folder, "resume": resume}
        arguments = {"callbacks": self.callbacks(), "progress": False, **self.fit, **kept, **options}
        return VariationalEM(*self.pair(start), **{"lr": 0.05, **self.em}).fit(self.rows(), steps=steps, **arguments)


def latch(monkeypatch: Any) -> None:
    """Let steps on the CPU leave it to the check whether one has failed, as on a device."""
    made = GradientStep.__init__
    monkeypatch.setattr(GradientStep, "__init__", partialmethod(made, latched=True))


def snapshot(fit: Fit) -> Any:
    """The state of a run as it is now, without its wall time."""
    tree = decode_tree(encode_tree(fit.trainer.state()))
    return {key: value for key, value in tree.items() if key != "seconds"}


def state_in(folder: Path) -> Any:
    """The state that a checkpoint holds, without its wall time."""
    tree = decode_tree((folder / RunFolder.STATE).read_bytes())
    return {key: value for key, value in tree.items() if key != "seconds"}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every bit (so NaN equals NaN, and -0.0 is not 0.0)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    raw = [t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in (a, b)]
    return torch.equal(*raw)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The places where two trees differ."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if same_bits(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = list(dict.fromkeys([*a, *b]))
        missing = [f"{where}/{key} (on one side)" for key in keys if (key in a) != (key in b)]
        return missing + [d for k in keys if k in a and k in b for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (u, v) in enumerate(zip(a, b, strict=True)) for d in differences(u, v, f"{where}/{i}")]
    return [] if type(a) is type(b) and repr(a) == repr(b) else [f"{where}: {a!r} / {b!r}"]
