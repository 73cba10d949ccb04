"""Where the microseconds of a small training step go: Pyro's SVI, and the same step compiled.

A VAE of 64-64-8 on batches of 64 digits, one thread. Pyro's step is taken apart by timing its pieces: the arithmetic of
torch (the same loss and its backward by hand), the optimizers (one a parameter), and what is left, which is Pyro's
handlers. The compiled step is one call of a graph, one of the optimizer's kernel, and the look at what has changed.
Medians of interleaved rounds.

    python benchmarks/step_anatomy.py [--rounds 15] [--steps 200] [--plot docs/step.png] [--smoke]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from step_problems.vae import small_vae
from torch import Tensor

from ppl_vae import CompiledSVI

Pieces = dict[str, Callable[[], Any]]


def pyro_pieces(x: Tensor) -> Pieces:
    """Pyro's whole step, its gradients alone, and the arithmetic of its gradients."""
    problem = small_vae()
    model, guide, loss = problem.pyro()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    parameters, by_hand = problem.by_hand()
    leaves = list(parameters)

    def arithmetic() -> None:
        for leaf in leaves:
            leaf.grad = None
        by_hand(x).backward()

    return {
        "step": lambda: svi.step(x),
        "gradients": lambda: svi.loss_and_grads(model, guide, x),
        "arithmetic": arithmetic,
    }


def compiled_pieces(x: Tensor) -> Pieces:
    """The whole compiled step, the call of its graph alone, and the update alone."""
    model, guide, loss = small_vae().pyro()
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss, mode="require")
    for _ in range(5):
        svi.step(x)
    found = svi.program((x,), {})
    assert found is not None
    program, inputs = found
    _, grads = program._run(inputs)
    return {
        "step": lambda: svi.step(x),
        "graph": lambda: program._run(inputs),
        "update": lambda: svi._update(program.forward, grads),  # type: ignore[arg-type]
    }


def measure(rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Microseconds of each piece: the median of interleaved rounds."""
    x = small_vae().data[:64]
    stores: dict[str, Any] = {name: {"params": {}, "constraints": {}} for name in ("Pyro", "compiled")}
    pieces: dict[str, Pieces] = {}
    times: dict[str, dict[str, list[float]]] = {}
    with pyro.validation_enabled(False):
        for name, make in (("Pyro", pyro_pieces), ("compiled", compiled_pieces)):
            with pyro.get_param_store().scope(stores[name]):
                pieces[name] = make(x)
                times[name] = {piece: [] for piece in pieces[name]}
        for _ in range(rounds):
            for name, store in stores.items():
                with pyro.get_param_store().scope(store):
                    for piece, call in pieces[name].items():
                        call()
                        start = time.perf_counter()
                        for _ in range(steps):
                            call()
                        times[name][piece].append((time.perf_counter() - start) / steps * 1e6)
    return {name: {piece: statistics.median(t) for piece, t in rows.items()} for name, rows in times.items()}


def parts(found: dict[str, dict[str, float]]) -> dict[str, list[tuple[str, float]]]:
    """What each step is made of, in order."""
    theirs, ours = found["Pyro"], found["compiled"]
    return {
        "Pyro's SVI": [
            ("torch's arithmetic, forward and backward", theirs["arithmetic"]),
            ("Pyro's handlers", theirs["gradients"] - theirs["arithmetic"]),
            ("optimizers", theirs["step"] - theirs["gradients"]),
        ],
        "CompiledSVI": [
            ("one call of the graph", ours["graph"]),
            ("update by the fused kernel", ours["update"]),
            ("look at what has changed", ours["step"] - ours["graph"] - ours["update"]),
        ],
    }


def draw(bars: dict[str, list[tuple[str, float]]], path: Path) -> None:
    """One bar a step, to scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(10, 2.9), constrained_layout=True)
    colors = {"Pyro's SVI": ("#c65d2e", "#e9a07c", "#f3cdb8"), "CompiledSVI": ("#1b6ca8", "#7fb2d9", "#c5dcee")}
    for row, (name, pieces) in enumerate(bars.items()):
        left = 0.0
        for (what, width), color in zip(pieces, colors[name], strict=True):
            ax.barh(row, width, left=left, color=color, height=0.45, label=f"{what}: {width:.0f}")
            left += width
        ax.text(left + 8, row, f"{left:.0f} µs", va="center")
    ax.set_yticks(range(len(bars)), list(bars))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("microseconds a step (VAE 64-64-8, batch 64, one thread)")
    ax.legend(frameon=False, loc="lower right", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200, help="steps a round")
    parser.add_argument("--plot", type=Path, help="draw the two steps to scale")
    parser.add_argument("--smoke", action="store_true", help="one short round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bars = parts(measure(1, 20) if options.smoke else measure(options.rounds, options.steps))
    for name, pieces in bars.items():
        print(f"{name}: {sum(width for _, width in pieces):.0f} µs a step")
        for what, width in pieces:
            print(f"    {width:7.1f}  {what}")
    theirs, ours = (sum(width for _, width in pieces) for pieces in bars.values())
    print(f"the compiled step takes 1/{theirs / ours:.1f} of Pyro's")
    if options.plot is not None:
        draw(bars, options.plot)


if __name__ == "__main__":
    main()
