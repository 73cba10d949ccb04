"""Pairs whose guides are normal laws carried onto the latents, and pairs whose guides are not: a table of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pairs import augmented, bijection, codes, flow_pair, function_pair, misaligned, mixed_latents, rows, shared_mean
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor
from torch.distributions import AffineTransform, SigmoidTransform, StickBreakingTransform, constraints

from ppl_vae import Pair
from ppl_vae.guides import SampledCategorical
from ppl_vae.pair.fixed_noise import FixedNoise

N, DIM = 7, 3
Pair_ = tuple[Callable[..., Any], Callable[..., Any]]


def data(n: int = N) -> Tensor:
    """n rows of 3 numbers, float64."""
    return rows(n, dtype=torch.float64)


def supports(x: Tensor) -> None:
    """A latent on each of these: the line, positive numbers, an interval, a simplex."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfCauchy(2.0))
    weight = pyro.sample("weight", dist.Beta(2.0, 3.0))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(DIM)))
    loc = mean + weight.unsqueeze(-1) * share
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), obs=x)


def levels(x: Tensor) -> None:
    """A positive latent of each datum beside a mean and a scale of all."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal((mean + z).unsqueeze(-1), scale.unsqueeze(-1)).to_event(1), obs=x)


def plates(x: Tensor) -> None:
    """Latents in a plate of columns and in one of the data."""
    columns, each = pyro.plate("columns", DIM, dim=-2), pyro.plate("data", len(x), dim=-1)
    with columns:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with each:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with columns, each:
        pyro.sample("x", dist.Normal(w * z, 1.0), obs=x.T)


def weighted(x: Tensor) -> None:
    """A prior that counts twice, and data that count by half."""
    with poutine.scale(scale=2.0):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
    with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def classes(x: Tensor) -> None:
    """A class of each datum, summed out, under a location that all share."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(DIM), 3.0).to_event(1))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc + 2.0 * c.unsqueeze(-1), 1.0).to_event(1), obs=x)


def regression(x: Tensor) -> None:
    """As most people write it: ``x @ b`` is right for one b."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x[:, :2] @ b, s), obs=x[:, 2])


def one_level(x: Tensor) -> None:
    """Two groups with a level each, chosen by an index, and a latent of each datum."""
    with pyro.plate("groups", 2):
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(level[(x[:, 0] > 0).long()], 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=x[:, 2])


def one_class(x: Tensor) -> None:
    """A class of each datum, summed out, under weights of which there is one draw."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(x[:, :2] @ b + c, 1.0), obs=x[:, 2])


def _one_class() -> Pair_:
    return one_class, AutoNormal(poutine.block(one_class, hide=["c"]))


def _branching() -> Pair_:
    """Which way a run takes hangs on a draw."""

    def model(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        loc = x @ b if float(b[0]) > 0 else x[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=x[:, 2])

    return model, AutoNormal(model)


def _auto(kind: Callable[..., Any], model: Callable[..., Any] = shared_mean) -> Callable[[], Pair_]:
    return lambda: (model, kind(model))


def _without_class() -> Pair_:
    return classes, AutoNormal(poutine.block(classes, hide=["c"]))


def _list() -> Pair_:
    guide = AutoGuideList(supports)
    guide.append(AutoMultivariateNormal(poutine.block(supports, expose=["mean"])))
    guide.append(AutoNormal(poutine.block(supports, hide=["mean"])))
    return supports, guide


def positive(name: str, value: Tensor | float) -> Tensor:
    found: Tensor = pyro.param(name, lambda: torch.as_tensor(value).clone(), constraint=constraints.positive)
    return found


def _function() -> Pair_:
    """By hand: a multivariate normal, a log-normal, and normals carried by maps of their own choice."""

    def guide(x: Tensor) -> None:
        loc = pyro.param("m", lambda: torch.tensor([0.3, -0.2, 0.1]))
        tril = pyro.param("l", lambda: 0.5 * torch.eye(DIM), constraint=constraints.lower_cholesky)
        pyro.sample("mean", dist.MultivariateNormal(loc, scale_tril=tril))
        pyro.sample("scale", dist.LogNormal(pyro.param("s", lambda: torch.tensor(0.2)), positive("t", 0.3)))
        base = dist.Normal(pyro.param("a", lambda: torch.tensor(-0.4)), positive("b", 0.6))
        maps = [AffineTransform(0.5, 2.0), SigmoidTransform()]  # not the map of Pyro's own choice
        pyro.sample("weight", dist.TransformedDistribution(base, maps))
        u = dist.Normal(pyro.param("c", lambda: torch.zeros(DIM - 1)), positive("d", torch.full((DIM - 1,), 0.4)))
        pyro.sample("share", dist.TransformedDistribution(u.to_event(1), [StickBreakingTransform()]))

    return supports, guide


def _free_locals() -> Pair_:
    """Of each datum a law of its own, in parameters with N rows, beside a global one."""

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(pyro.param("m", lambda: torch.tensor(0.1)), positive("s", 0.4)))
        pyro.sample("scale", dist.LogNormal(pyro.param("k", lambda: torch.tensor(0.1)), positive("t", 0.2)))
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", lambda: torch.linspace(-1, 1, len(x)))
            pyro.sample("z", dist.LogNormal(loc, positive("spread", torch.full((len(x),), 0.3))))

    return levels, guide


def _deterministic_scale() -> Pair_:
    """A law whose spread is made of parameters in a way of its own, and a location that follows from another draw."""

    def guide(x: Tensor) -> None:
        raw = pyro.param("raw", lambda: torch.tensor(-0.5))
        mean = pyro.sample("mean", dist.Normal(pyro.param("m", lambda: torch.zeros(DIM)), raw.exp()).to_event(1))
        slope = pyro.param("slope", lambda: torch.tensor(0.2))
        pyro.sample("scale", dist.LogNormal(slope * mean.sum(-1), positive("t", 0.3)))

    return shared_mean, guide


def low_rank(factor: str, diagonal: str) -> Callable[..., Any]:
    """The mean of ``shared_mean`` as a low-rank normal, by hand."""

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(DIM))
        f = pyro.param(factor, lambda: 0.3 * torch.ones(DIM, 2))
        d = positive(diagonal, torch.full((DIM,), 0.4))
        pyro.sample("mean", dist.LowRankMultivariateNormal(loc, f, d))
        pyro.sample("scale", dist.LogNormal(pyro.param("k", lambda: torch.tensor(0.0)), positive("t", 0.2)))

    return guide


def _auxiliary() -> Pair_:
    """A draw that is no latent, and the point that is made of it and counts its volume."""

    def guide(x: Tensor) -> None:
        tril = pyro.param("l", lambda: 0.3 * torch.eye(DIM + 1), constraint=constraints.lower_cholesky)
        loc = pyro.param("m", lambda: torch.zeros(DIM + 1))
        both = pyro.sample("both", dist.MultivariateNormal(loc, scale_tril=tril), infer={"is_auxiliary": True})
        pyro.sample("mean", dist.Delta(both[..., :DIM], event_dim=1))
        pyro.sample("scale", dist.Delta(both[..., DIM].exp(), log_density=-both[..., DIM]))

    return shared_mean, guide


def _noncentred() -> Pair_:
    model = poutine.reparam(schools, {"theta": LocScaleReparam(0.0)})
    return model, AutoMultivariateNormal(model)


def schools(y: Tensor) -> None:
    """Eight schools: a mean and a scale of the effects, and an effect of each school."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y[..., 0])


def _local(law: Callable[[Tensor], Any], prior: Any) -> Callable[[], Pair_]:
    """z of each datum, with the law that is given for it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand((*z.shape, DIM)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", law(x))

    return lambda: (model, guide)


def _global(law: Callable[[], Any], prior: Any) -> Callable[[], Pair_]:
    """One z for all data, with the law that is given for it."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", prior)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand((*z.shape, DIM)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", law())

    return lambda: (model, guide)


def _masked_in_guide() -> Pair_:
    prior = dist.Normal(0.0, 1.0)
    model, guide = _global(lambda: dist.Normal(pyro.param("m", lambda: torch.tensor(0.0)), 1.0), prior)()
    return model, poutine.mask(guide, mask=False)


FIT: dict[str, Callable[[], Pair_]] = {
    "AutoNormal": _auto(AutoNormal, supports),
    "AutoDiagonalNormal": _auto(AutoDiagonalNormal, supports),
    "AutoMultivariateNormal": _auto(AutoMultivariateNormal, supports),
    "AutoLowRank": _auto(AutoLowRankMultivariateNormal, supports),
    "AutoGuideList": _list,
    "functions": _function,
    "AutoNormal, levels": _auto(AutoNormal, levels),
    "AutoMultivariateNormal, levels": _auto(AutoMultivariateNormal, levels),
    "free locals": _free_locals,
    "plates": _auto(AutoNormal, plates),
    "plates together": _auto(AutoMultivariateNormal, plates),
    "weights": _auto(AutoMultivariateNormal, weighted),
    "summed classes": _without_class,
    "a way of its own": _deterministic_scale,
    "reparametrized": _noncentred,
    "auxiliary": _auxiliary,
    "mask of the guide alone": _masked_in_guide,  # which counts for nothing
    # and such as can be run for one draw only: ``torch.vmap`` makes many
    "one draw at a time": _auto(AutoNormal, misaligned),
    "matrices": _auto(AutoMultivariateNormal, regression),
    "matrices, levels": _auto(AutoNormal, one_level),
    "matrices, summed classes": _one_class,
}
"""Pairs whose noise can be fixed."""


def _subsampled() -> Pair_:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=3) as index:
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[index])

    return model, AutoNormal(model)


def masked(x: Tensor) -> None:
    """Only the first four data are there."""
    with pyro.plate("data", len(x)), poutine.mask(mask=torch.arange(len(x)) < 4):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand((*z.shape, DIM)).to_event(1), obs=x)


def _masked(*, guide_too: bool) -> Pair_:
    def guide(x: Tensor) -> None:
        there = (torch.arange(len(x)) < 4) if guide_too else torch.tensor(True)
        with pyro.plate("data", len(x)), poutine.mask(mask=there):
            pyro.sample("z", dist.Normal(pyro.param("m", lambda: torch.zeros(len(x))), 1.0))

    return masked, guide


def _misspelt() -> Pair_:
    """A draw of the guide that no latent is: the pair leaves it out of log q, and says so in a warning."""

    def guide(x: Tensor) -> None:
        pyro.sample("means", dist.Normal(pyro.param("e", lambda: torch.tensor(0.0)), 0.2))
        pyro.sample("mean", dist.Normal(pyro.param("m", lambda: torch.zeros(DIM)), 0.3).to_event(1))
        pyro.sample("scale", dist.LogNormal(pyro.param("s", lambda: torch.tensor(0.0)), 0.3))

    return shared_mean, guide


REFUSED: dict[str, tuple[Callable[[], Pair_], str]] = {
    "amortized": (function_pair, "the guide's 'z' follows from the data (an amortized guide)"),
    "amortized scale": (
        _local(lambda x: dist.Normal(0.0, x[:, 0].abs()), dist.Normal(0.0, 1.0)),
        "the guide's 'z' follows from the data (an amortized guide)",
    ),
    "inverse autoregressive flow": (_auto(AutoIAFNormal), "maps with parameters"),
    "discrete": (lambda: codes(SampledCategorical), "the latent 'c' is discrete"),
    "mixed": (mixed_latents, "the latent 'c' is discrete"),
    "point": (_auto(AutoDelta), "the guide draws nothing whose noise could be fixed"),
    "exact flow": (lambda: flow_pair(bijection()), "the guide draws nothing whose noise could be fixed"),
    "augmented flow": (lambda: flow_pair(augmented()), "the guide draws nothing whose noise could be fixed"),
    "subsample": (_subsampled, "a plate draws a subsample of its own"),
    "mask": (lambda: _masked(guide_too=True), "entries of the latent 'z' may be masked"),
    "mask of the model alone": (lambda: _masked(guide_too=False), "entries of the latent 'z' may be masked"),
    "mask and AutoNormal": (_auto(AutoNormal, masked), "entries of the latent 'z' may be masked"),
    "no latent": (_misspelt, "the guide's 'means' is no latent of the model"),
    "Gamma": (
        _global(lambda: dist.Gamma(positive("a", 2.0), positive("b", 1.0)), dist.Gamma(2.0, 1.0)),
        "the guide's 'z' is not normal, or carried on by maps with parameters (it stands on Gamma)",
    ),
    "StudentT": (
        _global(lambda: dist.StudentT(5.0, pyro.param("m", lambda: torch.tensor(0.0)), 1.0), dist.Normal(0.0, 1.0)),
        "(it stands on StudentT)",
    ),
    "a branch": (_branching, "many draws of this pair cannot be made in one run (vmap: It looks like you're calling"),
}
"""Pairs whose noise cannot be fixed, and a part of the reason."""


def fixed(name: str) -> FixedNoise:
    """The runs of a pair of the first table at fixed noise."""
    pair = Pair(*FIT[name](), dtype=torch.float64).initialize(data(), seed=3)
    return FixedNoise(pair, pair.rows(data()).batch())
