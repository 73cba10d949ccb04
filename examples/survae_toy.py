"""A surjection that knows a symmetry, beside a flow that has to learn it, on four densities with known entropy.

    -E_π log q(x) = H(π) + KL(π || q) >= H(π)

``Abs`` folds the plane: z = |x|, and x = ± z with a drawn sign. Three of the sets are symmetric, so their signs are
fair. The checkerboard is antisymmetric: folded along x1 it is uniform, and the sign says which squares are black, so a
network learns P(sign | z). Behind the fold stands the same chain of spline couplings as without it, and nothing is
tuned on a set by itself. What lives in a box is known to do so by both flows. Held-out rows are counted twice: NLL
less the entropy, and, with the noise of the rows gone, the mean of log π(x) - log q(x), an estimate of the KL.

    python examples/survae_toy.py            (three minutes)
    python examples/survae_toy.py --smoke    (seconds)
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_vae import Fit, VariationalEM
from ppl_vae.data import TOYS, CheckerboardSquares, Corners, Dataset, Toy
from ppl_vae.flows import Abs, ActNorm, Bounded, Chain, Half, Inverse, Layer, Softplus, SplineCoupling
from ppl_vae.guides import FlowGuide
from ppl_vae.models import FlowModel
from ppl_vae.nn import MLP
from ppl_vae.training import EachStep

SEED, BATCH, LAYERS, BINS = 0, 500, 4, 16


def boxed(toy: Toy) -> bool:
    """Does the set live in [-4, 4]²?"""
    return isinstance(toy, CheckerboardSquares | Corners)


def behind() -> list[Layer]:
    """To mean 0 and variance 1; then splines that move one number by what the other says, in turn."""
    return [ActNorm(2), *(SplineCoupling(2, mask=Half(swap=i % 2 == 1), bins=BINS, bound=6.0) for i in range(LAYERS))]


def plain_flow(toy: Toy) -> Chain:
    """Without a surjection: a bijection of the plane, or of the box."""
    return Chain([*([Bounded([-4.0, -4.0], [4.0, 4.0])] if boxed(toy) else []), *behind()])


def abs_flow(toy: Toy) -> Chain:
    """Folded first, then taken from where that ends to the plane."""
    if isinstance(toy, CheckerboardSquares):
        sign = MLP(2, 1, hidden=(64, 64, 64), activation=nn.ReLU)
        folded: list[Layer] = [Abs(2, entries=[0], sign=sign), Bounded([0.0, -4.0], [4.0, 4.0])]
    else:
        folded = [Abs(2), Bounded([0.0, 0.0], [4.0, 4.0]) if boxed(toy) else Inverse(Softplus(2))]
    return Chain([*folded, *behind()])


def fit_one(flow: Chain, data: Dataset, *, steps: int) -> Fit:
    """Maximum likelihood, as variational EM with the flow's own encoder for a guide."""
    em = VariationalEM(
        FlowModel(flow), FlowGuide(flow), lr=4e-3, clip_norm=5.0, compile=False,
        lr_scheduler=EachStep(partial(CosineAnnealingLR, T_max=steps)),
    )  # fmt: skip
    return em.fit(data.train, steps=steps, batch_size=BATCH, seed=SEED)


def line(name: str, toy: Toy, log_p: Tensor, x: Tensor, seconds: float) -> str:
    """One row of the table; a NLL that is too good to be true ends the script."""
    nll, excess = -log_p, toy.log_prob(x.double()) - log_p
    error, paired = (float(rows.std()) / len(rows) ** 0.5 for rows in (nll, excess))
    above = float(nll.mean()) - toy.entropy
    if above < -4.5 * error or float(excess.mean()) < -4.5 * paired:
        raise SystemExit(f"{toy.name}, {name}: {above:+.4f} ± {error:.4f}, below what any density can reach")
    return (
        f"{toy.name:<16}{name:<9}{toy.entropy:9.4f}{float(nll.mean()):9.4f} ± {error:.4f}{above:+9.4f}"
        f"{float(excess.mean()):+11.4f} ± {paired:.4f}{seconds:9.0f}"
    )


def density(flow: Chain | None, toy: Toy, cells: int) -> Tensor:
    """exp(log q) at the midpoints of a square of cells, or that of the set itself."""
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) * (8 / cells) - 4
    x = torch.cartesian_prod(middle, middle)
    if flow is None:
        return toy.log_prob(x).exp().reshape(cells, cells).mT
    with torch.no_grad():
        z, contribution = flow.encode(x.float())
        log_q = contribution + FlowModel(flow).base().log_prob(z)
    return log_q.exp().reshape(cells, cells).mT


def draw(flows: dict[Toy, list[Chain | None]], path: Path, *, cells: int) -> None:
    """The densities: the set, the flow, the AbsFlow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.2), dpi=150, layout="constrained")
    axes = figure.subplots(3, len(flows))
    for column, (toy, chains) in enumerate(flows.items()):
        top = float(density(None, toy, cells).max())
        for row, (name, chain) in enumerate(zip(("", "flow", "AbsFlow"), chains, strict=True)):
            ax = axes[row, column]
            ax.imshow(density(chain, toy, cells), origin="lower", vmin=0, vmax=top, extent=(-4, 4, -4, 4))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(name or toy.name, fontsize=9)
    figure.savefig(path)
    print(f"drawn: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the plot")
    options = parser.parse_args()
    if options.smoke:
        print("a smoke run: it shows that the script runs, and its numbers mean nothing")
    options.out.mkdir(parents=True, exist_ok=True)
    steps, rows, cells = (20, 2000, 40) if options.smoke else (2500, 100_000, 200)
    print(f"nats, {rows} rows to train on and {rows} held out, seed {SEED}")
    print("set             model     entropy      NLL ± error     above        KL to the set    seconds")
    flows: dict[Toy, list[Chain | None]] = {}
    for toy in TOYS:
        data = toy.load(num_train=rows, num_test=rows, seed=SEED)
        flows[toy] = [None]
        for name, make in (("flow", plain_flow), ("AbsFlow", abs_flow)):
            torch.manual_seed(SEED)
            flow = make(toy)
            fit = fit_one(flow, data, steps=steps)
            assert data.test is not None
            # An exact flow: the ELBO is log q(x), without noise
            print(line(name, toy, fit.elbo(data.test), data.test, fit.seconds), flush=True)
            flows[toy].append(flow)
    draw(flows, options.out / "survae_toy.png", cells=cells)


if __name__ == "__main__":
    main()
