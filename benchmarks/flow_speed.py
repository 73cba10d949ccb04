"""Microseconds of coupling flows: ours, zuko's, Pyro's and normflows', in one process.

Four coupling layers at D = 8, each with a network of 4-64-64-parameters (ReLU), on batches of 512 in float32, one
thread:

- score: log p(x) of the batch, its mean, and the gradient of every parameter;
- draw: 512 samples, without gradients;
- step: the gradient and Adam. "ours" is then the pair of FlowModel and FlowGuide under Pyro's handlers, whose cost the
  others, stepped by hand with the fused Adam, do not have.

Splines are rational-quadratic, with 8 bins on [-5, 5]. All contestants have the same number of parameters; the
benchmark refuses one that has not. "ours, compiled" is CompiledSVI on the pair, optimizer and all, under "score" too;
its draws are ``flow.decode`` under torch.compile. With --compile-peers the others go through torch.compile as well,
where that can.

Figures are medians of interleaved rounds, every other one backwards. Start and data are fixed and the learning rate is
0, so all measure the same work. normflows comes with `pip install ppl_vae[bench]`.

    python benchmarks/flow_speed.py [--rounds 25] [--calls 20] [--compile-peers] [--smoke]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae import CompiledSVI
from ppl_vae.flows import AffineCoupling, Chain, FlowDistribution, Half, SplineCoupling
from ppl_vae.flows.zuko_layer import import_zuko
from ppl_vae.guides import FlowGuide
from ppl_vae.models import FlowModel
from ppl_vae.objectives import ELBO

DIM, HIDDEN, BATCH, LAYERS, BINS, BOUND = 8, (64, 64), 512, 4, 8, 5.0
LR = 0.0  # all stay where they start, at a gradient of some size
LIMITS = {"affine": 1.1, "spline": 1.5}  # ours over the fastest of the others, both eager
Call = Callable[[], Any]


@dataclass
class Flow:
    """One library's flow.

    Args:
        modules: that hold the parameters.
        log_prob: (B, 8) to (B,) nats.
        draw: from a number to so many samples.
    """

    modules: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    draw: Callable[[int], Tensor]

    @property
    def size(self) -> int:
        """How many parameters it has."""
        return sum(leaf.numel() for leaf in self.modules.parameters())


def data() -> Tensor:
    """(B, 8) numbers in two clusters a column, -2 and 1: far from the normal that a flow starts as."""
    generator = torch.Generator().manual_seed(0)
    centre = 3.0 * torch.randint(0, 2, (BATCH, DIM), generator=generator) - 2.0
    return centre + 0.3 * torch.randn(BATCH, DIM, generator=generator)


def our_chain(kind: str) -> Chain:
    torch.manual_seed(0)
    layers = {"affine": AffineCoupling, "spline": partial(SplineCoupling, bins=BINS, bound=BOUND)}
    return Chain([layers[kind](DIM, mask=Half(swap=bool(i % 2)), hidden=HIDDEN) for i in range(LAYERS)])


def ours(kind: str) -> Flow:
    flow = our_chain(kind)
    base = dist.Normal(torch.zeros(DIM), torch.ones(DIM)).to_event(1)
    return Flow(
        flow, lambda x: FlowDistribution(base, flow).log_prob(x), lambda n: FlowDistribution(base, flow).sample((n,))
    )


def by_zuko(kind: str) -> Flow:
    zuko = import_zuko()
    spline = {
        "univariate": partial(zuko.transforms.MonotonicRQSTransform, bound=BOUND),
        "shapes": [(BINS,), (BINS,), (BINS - 1,)],
    }
    masks = [(torch.arange(DIM) < DIM // 2) == (i % 2 == 0) for i in range(LAYERS)]
    options = spline if kind == "spline" else {}
    layers = [zuko.flows.GeneralCouplingTransform(DIM, mask=mask, hidden_features=HIDDEN, **options) for mask in masks]
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(DIM), torch.ones(DIM), buffer=True
    )
    flow = zuko.flows.Flow(layers, base)
    return Flow(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def by_pyro(kind: str) -> Flow:
    """The numbers are turned round between layers: Pyro's couplings keep the first half."""
    from pyro.distributions.transforms import AffineCoupling, Permute, SplineCoupling
    from pyro.nn import DenseNN

    half = DIM // 2
    shapes = {"affine": [half, half], "spline": [half * BINS, half * BINS, half * (BINS - 1)]}
    networks = [DenseNN(half, list(HIDDEN), shapes[kind]) for _ in range(LAYERS)]
    make = {
        "affine": lambda network: AffineCoupling(half, network),
        "spline": lambda network: SplineCoupling(DIM, half, network, BINS, BOUND, order="quadratic", identity=True),
    }
    transforms: list[Any] = []
    for network in networks:
        transforms += [make[kind](network), Permute(torch.arange(DIM - 1, -1, -1))]
    base = dist.Normal(torch.zeros(DIM), torch.ones(DIM)).to_event(1)

    def score(x: Tensor) -> Tensor:
        for transform in transforms:
            transform.clear_cache()  # as for data that it sees for the first time
        return dist.TransformedDistribution(base, transforms).log_prob(x)

    return Flow(nn.ModuleList(networks), score, lambda n: dist.TransformedDistribution(base, transforms).sample((n,)))


def by_normflows(kind: str) -> Flow:
    import normflows as nf

    layers: list[nn.Module] = []
    for i in range(LAYERS):
        if kind == "affine":
            network = nf.nets.MLP([DIM // 2, *HIDDEN, DIM])
            layers += [nf.flows.AffineCouplingBlock(network), nf.flows.Permute(DIM, mode="swap")]
        else:
            layers.append(_spline_of_normflows(nf, swap=bool(i % 2)))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), layers)
    return Flow(flow, flow.log_prob, lambda n: flow.sample(n)[0])


def _spline_of_normflows(nf: Any, *, swap: bool) -> nn.Module:
    """Its layer with a network as the others have one; log_prob runs its forward direction, as nsf does."""
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    class Layer(nf.flows.Flow):
        def __init__(self) -> None:
            super().__init__()
            mask = torch.tensor([int((i < DIM // 2) == swap) for i in range(DIM)])
            self.coupling = PiecewiseRationalQuadraticCoupling(
                mask, lambda size, out: _NoContext(nf, size, out), num_bins=BINS, tails="linear", tail_bound=BOUND
            )

        def forward(self, z: Tensor, context: Any = None) -> Any:
            z, log_det = self.coupling.inverse(z, context)
            return z, log_det.view(-1)

        def inverse(self, z: Tensor, context: Any = None) -> Any:
            z, log_det = self.coupling(z, context)
            return z, log_det.view(-1)

    return Layer()


class _NoContext(nn.Module):
    def __init__(self, nf: Any, size: int, out: int) -> None:
        super().__init__()
        self.network = nf.nets.MLP([size, *HIDDEN, out])

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        return self.network(x)


LIBRARIES: dict[str, Callable[[str], Flow]] = {
    "ours": ours,
    "zuko": by_zuko,
    "Pyro": by_pyro,
    "normflows": by_normflows,
}


def scoring(flow: Flow, x: Tensor, log_prob: Callable[[Tensor], Tensor] | None = None) -> Call:
    """The loss and its gradients."""
    leaves, score = list(flow.modules.parameters()), log_prob or flow.log_prob

    def call() -> float:
        for leaf in leaves:
            leaf.grad = None
        loss = -score(x).mean()
        loss.backward()
        return float(loss.detach())

    return call


def stepping(flow: Flow, x: Tensor) -> Call:
    gradients = scoring(flow, x)
    optimizer = torch.optim.Adam(flow.modules.parameters(), lr=LR, fused=True)

    def call() -> float:
        loss = gradients()
        optimizer.step()
        return loss

    return call


def drawing(draw: Callable[[int], Tensor]) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            return draw(BATCH)

    return call


def svi_step(kind: str, x: Tensor, mode: str) -> Call:
    """Gradient, optimizer and all, of the pair."""
    flow = our_chain(kind)
    svi = CompiledSVI(FlowModel(flow), FlowGuide(flow), pyro.optim.Adam({"lr": LR}), ELBO(), mode=mode)
    store: dict[str, Any] = {"params": {}, "constraints": {}}

    def call() -> float:
        with pyro.get_param_store().scope(store):
            return svi.step(x) / BATCH

    return call


def compiled_draw(kind: str) -> Call:
    flow = our_chain(kind)
    decode = torch.compile(flow.decode)
    return drawing(lambda n: decode(torch.randn(n, DIM))[0])


def available(kind: str) -> dict[str, Flow]:
    """The flows of the libraries that are here; all of one size."""
    flows: dict[str, Flow] = {}
    for name, make in LIBRARIES.items():
        torch.manual_seed(0)
        try:
            flows[name] = make(kind)
        except ImportError as error:
            print(f"({name} is not here: {error}; pip install ppl_vae[bench])")
    sizes = {name: flow.size for name, flow in flows.items()}
    if len(set(sizes.values())) > 1:
        raise SystemExit(f"flow_speed: all flows must have the same number of parameters, got {sizes}")
    print(f"{kind} coupling, {LAYERS} layers, {flows['ours'].size} parameters each")
    return flows


def contestants(kind: str, x: Tensor, *, compiled: bool, peers: bool) -> dict[str, dict[str, Call]]:
    """Calls by task and name."""
    flows = available(kind)
    calls: dict[str, dict[str, Call]] = {
        "score": {name: scoring(flow, x) for name, flow in flows.items()},
        "draw": {name: drawing(flow.draw) for name, flow in flows.items()},
        "step": {name: stepping(flow, x) for name, flow in flows.items() if name != "ours"},
    }
    calls["step"]["ours"] = svi_step(kind, x, "eager")
    if compiled:
        calls["step"]["ours, compiled"] = calls["score"]["ours, compiled"] = svi_step(kind, x, "require")
        calls["draw"]["ours, compiled"] = compiled_draw(kind)
    for name in (name for name in flows if peers and name != "ours"):
        flow = LIBRARIES[name](kind)
        calls["score"][f"{name}, compiled"] = scoring(flow, x, torch.compile(flow.log_prob))
        calls["draw"][f"{name}, compiled"] = drawing(torch.compile(LIBRARIES[name](kind).draw))
    return {
        task: {name: call for name, call in found.items() if _runs(task, name, call)} for task, found in calls.items()
    }


def _runs(task: str, name: str, call: Call) -> bool:
    """Warm it up; a peer that torch cannot compile says so and is left out."""
    try:
        for _ in range(5):
            call()
    except Exception as error:
        if "compiled" not in name or name.startswith("ours"):
            raise
        print(f"({name}, {task}: {type(error).__name__})")
        return False
    return True


def medians(calls: dict[str, Call], rounds: int, repeats: int) -> dict[str, float]:
    """Microseconds of a call by contestant."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds):
        for name in calls if round_ % 2 == 0 else reversed(calls):
            start = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: 1e6 * median(found) for name, found in times.items()}


def show(kind: str, task: str, found: dict[str, float]) -> None:
    """Microseconds, and each over the fastest eager peer."""
    best = min(
        (name for name in found if not name.startswith("ours") and "compiled" not in name), key=found.__getitem__
    )
    print(f"  {task}, µs (over {best}):")
    for name, microseconds in sorted(found.items(), key=lambda item: item[1]):
        print(f"    {name:<22}{microseconds:9.0f}{microseconds / found[best]:8.2f}")
    if task != "step":
        print(f"    ours over the fastest eager peer: {found['ours'] / found[best]:.2f} (at most {LIMITS[kind]})")
    if "ours, compiled" in found:
        others = min(value for name, value in found.items() if not name.startswith("ours"))
        print(f"    ours, compiled, over the fastest of all others: {found['ours, compiled'] / others:.2f} (below 1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=20, help="calls a round")
    parser.add_argument("--compile-peers", action="store_true", help="torch.compile around the others (some minutes)")
    parser.add_argument("--smoke", action="store_true", help="one short round, nothing compiled")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rounds, repeats = (1, 2) if options.smoke else (options.rounds, options.calls)
    x = data()
    with pyro.validation_enabled(False):
        for kind in LIMITS:
            calls = contestants(kind, x, compiled=not options.smoke, peers=options.compile_peers)
            for task, found in calls.items():
                show(kind, task, medians(found, rounds, repeats))


if __name__ == "__main__":
    main()
