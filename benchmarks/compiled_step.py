"""Microseconds of one training step: Pyro, ours, PyTorch by hand and NumPyro, each eager and compiled, side by side.

Every row of the table is one model (see step_problems/), in a process of its own. All contestants start from the same
weights, draw mini-batches of the same size and take Adam at 1e-3; rounds are interleaved, every other one backwards,
and the figure is the median round. The table of losses (per datum, mean over the last round) shows that all do the
same work.

"Pyro" is SVI.step with validation off. "by hand" is the loop that a person writes: reparametrized sample, closed-form
KL or exact sum, fused Adam; "compiled" puts torch.compile around its loss. (On the VAEs its loss ends lower: Pyro and
NumPyro take the KL by the same sample, with more noise in the gradient.) "ours eager" and "ours compiled" are
CompiledSVI.step with mode="eager" and mode="require" (so that a step that fell back is not shown as compiled);
"ours .run" and "NumPyro scan" take many steps in one call. NumPyro gathers its mini-batch inside the jitted function
and, unlike SVI.step, does not wait for the loss of each step.

XLA ignores the number of threads that is set, so every process is pinned to as many cores as it has threads. NumPyro's
columns need `pip install ppl_vae[bench]`.

    python benchmarks/compiled_step.py [--problems "small VAE" GMM] [--rounds 9] [--steps 100] [--threads 1 2]
        [--no-pin] [--first-use] [--json] [--smoke]
    python benchmarks/compiled_step.py --scaling [--plot scaling.png]

--first-use adds what compiling costs: seconds of the first steps in a new process, with an empty compile cache and
again with the one just filled, and after how many steps the first is earned back against Pyro. --scaling is Pyro and
ours compiled against batch, particles, latent dimension and depth of the small VAE.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from step_problems import PROBLEMS, Problem, Unavailable, scaled_vae

LR = 1e-3
Row = dict[str, Any]
PYRO, BY_HAND, TORCH = "Pyro", "by hand", "by hand, compiled"
OURS_EAGER, OURS, OURS_RUN = "ours eager", "ours compiled", "ours .run"
JIT, SCAN = "NumPyro jit", "NumPyro scan"
COMPILED = (TORCH, OURS, OURS_RUN, JIT, SCAN)
SCALING = {"batch": (16, 64, 256, 1024), "particles": (1, 4, 16, 64), "latent": (2, 8, 32, 128), "depth": (1, 2, 4, 8)}


@dataclass(frozen=True)
class Contestant:
    """steps: runs so many steps and returns their mean loss per datum."""

    name: str
    steps: Callable[[int], float]


def by_svi(name: str, problem: Problem, svi: Any) -> Contestant:
    """Anything with Pyro's SVI.step, in a parameter store of its own."""
    store: dict[str, Any] = {"params": {}, "constraints": {}}

    def steps(count: int) -> float:
        with pyro.get_param_store().scope(store), pyro.validation_enabled(False):
            total = sum(svi.step(problem.rows(index)) for index in problem.draw(count))
        return total / count / problem.batch

    return Contestant(name, steps)


def by_pyro(problem: Problem) -> Contestant:
    model, guide, loss = problem.pyro()
    return by_svi(PYRO, problem, SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss))


def our_svi(problem: Problem, mode: str) -> Any:
    try:
        from ppl_vae import CompiledSVI
    except ImportError as error:
        raise Unavailable("this ppl_vae has no CompiledSVI") from error
    model, guide, loss = problem.pyro()
    return CompiledSVI(model, guide, pyro.optim.Adam({"lr": LR}), loss=loss, mode=mode)


def by_us_eager(problem: Problem) -> Contestant:
    return by_svi(OURS_EAGER, problem, our_svi(problem, "eager"))


def by_us(problem: Problem) -> Contestant:
    return by_svi(OURS, problem, our_svi(problem, "require"))


def by_us_run(problem: Problem) -> Contestant:
    svi = our_svi(problem, "require")
    store: dict[str, Any] = {"params": {}, "constraints": {}}

    def steps(count: int) -> float:
        with pyro.get_param_store().scope(store), pyro.validation_enabled(False):
            losses = svi.run(problem.data, num_steps=count, batch_size=problem.batch)
        return float(losses.mean()) / problem.batch

    return Contestant(OURS_RUN, steps)


def by_hand(problem: Problem, *, compiled: bool = False) -> Contestant:
    parameters, loss = problem.by_hand()
    optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)
    if compiled:
        loss = torch.compile(loss)

    def step(rows: torch.Tensor) -> torch.Tensor:
        value = loss(rows)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    def steps(count: int) -> float:
        total = sum(step(problem.rows(index)) for index in problem.draw(count))
        return float(total) / count / problem.batch

    return Contestant(TORCH if compiled else BY_HAND, steps)


class NumPyro:
    """The optimizer's state between calls, and the step that both of NumPyro's contestants compile."""

    def __init__(self, problem: Problem) -> None:
        try:
            import jax
            import jax.numpy as jnp
            import numpyro
        except ImportError as error:
            raise Unavailable("NumPyro is not installed: pip install ppl_vae[bench]") from error
        model, guide, loss = problem.numpyro()
        self.problem, self.data, self.asarray = problem, jnp.array(problem.data.numpy()), jnp.array
        self.svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(LR), loss)
        self.state = self.svi.init(jax.random.PRNGKey(0), self.data[: problem.batch])

    def indices(self, count: int) -> Any:
        """(count, batch): the rows of each step."""
        return self.asarray(self.problem.draw(count).int().numpy())

    def update(self, state: Any, data: Any, index: Any) -> tuple[Any, Any]:
        """One step, the mini-batch gathered here."""
        return self.svi.update(state, data if self.problem.full else data[index])


def by_numpyro_jit(problem: Problem) -> Contestant:
    run = NumPyro(problem)
    import jax

    step = jax.jit(lambda state, data, indices, i: run.update(state, data, indices[i]))

    def steps(count: int) -> float:
        indices, losses = run.indices(count), []
        for i in range(count):
            run.state, loss = step(run.state, run.data, indices, i)
            losses.append(loss)
        return sum(map(float, losses)) / count / problem.batch

    return Contestant(JIT, steps)


def by_numpyro_scan(problem: Problem) -> Contestant:
    run = NumPyro(problem)
    import jax

    @jax.jit
    def many(state: Any, data: Any, indices: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda state, index: run.update(state, data, index), state, indices)

    def steps(count: int) -> float:
        run.state, losses = jax.block_until_ready(many(run.state, run.data, run.indices(count)))
        return float(losses.mean()) / problem.batch

    return Contestant(SCAN, steps)


CONTESTANTS: dict[str, Callable[[Problem], Contestant]] = {
    PYRO: by_pyro,
    OURS_EAGER: by_us_eager,
    BY_HAND: by_hand,
    TORCH: partial(by_hand, compiled=True),
    OURS: by_us,
    OURS_RUN: by_us_run,
    JIT: by_numpyro_jit,
    SCAN: by_numpyro_scan,
}


def warm(name: str, problem: Problem, steps: int) -> Contestant | str:
    """The contestant after its first steps, or why there is none."""
    try:
        contestant = CONTESTANTS[name](problem)
        contestant.steps(steps)
    except Unavailable as error:
        return str(error)
    except Exception as error:
        if name == PYRO:
            raise
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    return contestant


def measure(build: Callable[[], Problem], names: list[str], threads: int, rounds: int, steps: int) -> list[Row]:
    """One row a contestant: the median microseconds of a step, rounds interleaved; runs in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    problem = build()
    warmed = {name: warm(name, problem, steps) for name in names}
    running = [contestant for contestant in warmed.values() if isinstance(contestant, Contestant)]
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in running}
    losses: dict[str, float] = {}
    for round_ in range(rounds):
        for contestant in running if round_ % 2 == 0 else reversed(running):
            start = time.perf_counter()
            losses[contestant.name] = contestant.steps(steps)
            seconds[contestant.name].append((time.perf_counter() - start) / steps)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rows: list[Row] = [{"name": name, "reason": warmed[name]} for name in names if name not in median]
    for name, of_a_step in median.items():
        ratio = median[PYRO] / of_a_step
        rows.append({"name": name, "microseconds": 1e6 * of_a_step, "pyro_over": ratio, "loss": losses[name]})
    return sorted(rows, key=lambda row: names.index(row["name"]))


def first_use(build: Callable[[], Problem], name: str, threads: int, steps: int) -> float:
    """Seconds of the first steps of a contestant; runs in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    contestant = CONTESTANTS[name](build())
    start = time.perf_counter()
    contestant.steps(steps)
    return time.perf_counter() - start


@contextmanager
def pinned(cores: int | None) -> Iterator[None]:
    """Processes started within inherit so many cores; None, or a system that cannot, leaves all."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def in_new_process(function: Callable[..., Any], *arguments: Any, cores: int | None) -> Any:
    context = multiprocessing.get_context("spawn")
    with pinned(cores), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def add_first_use(rows: list[Row], build: Callable[[], Problem], threads: int, cores: int | None) -> None:
    """Seconds of compiling: with an empty cache, with the one that this filled, and the steps that earn it back."""
    steps = 20
    pyro_step = next(row["microseconds"] for row in rows if row["name"] == PYRO)
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    for row in rows:
        if row["name"] not in COMPILED or "reason" in row:
            continue
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            for kind in ("cold", "warm"):
                spent = in_new_process(first_use, build, row["name"], threads, steps, cores=cores)
                row[f"{kind}_seconds"] = max(0.0, spent - steps * row["microseconds"] / 1e6)
        saved = (pyro_step - row["microseconds"]) / 1e6
        row["earned_back"] = round(row["cold_seconds"] / saved) if saved > 0 else None
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
    if before is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def print_tables(rows: list[Row]) -> None:
    """Microseconds, Pyro's over each, losses, and where measured, the cost of compiling."""
    names = [name for name in CONTESTANTS if any(row["name"] == name for row in rows)]
    quantities = {
        "microseconds a step": ("microseconds", "{:.0f}"),
        "Pyro's step over it": ("pyro_over", "{:.1f}"),
        "loss per datum": ("loss", "{:.3f}"),
        "seconds to compile": ("cold_seconds", "{:.1f}"),
        "... cache filled": ("warm_seconds", "{:.1f}"),
        "steps that earn it back": ("earned_back", "{}"),
    }
    for threads in dict.fromkeys(row["threads"] for row in rows):
        for title, (key, form) in quantities.items():
            if not any(key in row for row in rows):
                continue
            print(f"\n{f'{title}, {threads} thread(s)':<38}" + "".join(f"{name:>18}" for name in names))
            for problem in dict.fromkeys(row["problem"] for row in rows):
                cells = {r["name"]: r.get(key) for r in rows if (r["threads"], r["problem"]) == (threads, problem)}
                shown = ["-" if cells.get(name) is None else form.format(cells[name]) for name in names]
                print(f"{problem:<38}" + "".join(f"{cell:>18}" for cell in shown))
    print_reasons(rows)


def print_reasons(rows: list[Row]) -> None:
    """Why a cell is empty, each reason once."""
    problems = {row["problem"] for row in rows}
    where: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if "reason" in row:
            found = where.setdefault(row["reason"], {}).setdefault(row["name"], [])
            found += [row["problem"]] if row["problem"] not in found else []
    if where:
        print("\n- where there is none:")
    for reason, cells in where.items():
        whom = "; ".join(
            f"{name}: {'all' if len(at) == len(problems) else ', '.join(at)}" for name, at in cells.items()
        )
        print(f"  {reason}  ({whom})")


def print_scaling(rows: list[Row]) -> None:
    print(f"{'threads':>7}  {'':<10}{'':>6}{PYRO:>12}{OURS:>16}{'Pyro over ours':>16}   microseconds a step")
    for threads, axis, value in dict.fromkeys((row["threads"], row["axis"], row["value"]) for row in rows):
        cell = {r["name"]: r for r in rows if (r["threads"], r["axis"], r["value"]) == (threads, axis, value)}
        ours = cell[OURS]
        shown = ("-", "-") if "reason" in ours else (f"{ours['microseconds']:.0f}", f"{ours['pyro_over']:.1f}")
        numbers = f"{cell[PYRO]['microseconds']:>12.0f}{shown[0]:>16}{shown[1]:>16}"
        print(f"{threads:>7}  {axis:<10}{value:>6}{numbers}")
    for reason in {row["reason"] for row in rows if "reason" in row}:
        print(f"- where there is none: {reason}")


def plot_scaling(rows: list[Row], path: Path) -> None:
    """Four log-log panels, one an axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    labels = {"batch": "rows a batch", "particles": "particles", "latent": "latent dimension", "depth": "hidden layers"}
    threads = rows[0]["threads"]
    for panel, (axis, values) in zip(figure.subplots(2, 2, sharey=True).flat, SCALING.items(), strict=True):
        for name, marker in ((PYRO, "o"), (OURS, "s")):
            points = [r for r in rows if (r["threads"], r["axis"], r["name"]) == (threads, axis, name)]
            points = [r for r in points if "reason" not in r]
            if points:
                cost = [r["microseconds"] for r in points]
                panel.loglog([r["value"] for r in points], cost, marker=marker, label=name)
        panel.set_xticks(values, labels=map(str, values))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
        panel.set(xlabel=labels[axis], ylabel="µs a step")
        panel.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    pin = "pin every process to as many cores as it has threads"
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help=pin)
    parser.add_argument("--first-use", action="store_true", help="also the seconds of compiling (some minutes)")
    parser.add_argument("--scaling", action="store_true", help="cost against batch, particles, latent dimension, depth")
    parser.add_argument("--plot", type=Path, help="with --scaling: write the figure to this PNG")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--smoke", action="store_true", help="one short round of the first problem")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.steps = 1, 20
        options.problems, options.threads = options.problems[:1], options.threads[:1]
    return options


def main() -> None:
    options = parse()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows: list[Row] = []
    if options.scaling:
        points = [(axis, value) for axis, values in SCALING.items() for value in values]
        jobs = [({"axis": axis, "value": value}, partial(scaled_vae, axis, value)) for axis, value in points]
        names = [PYRO, OURS]
    else:
        jobs = [({"problem": name}, PROBLEMS[name]) for name in options.problems]
        names = list(CONTESTANTS)
    for threads in options.threads:
        cores = threads if options.pin else None
        for label, build in jobs[:2] if options.smoke else jobs:
            arguments = (build, names, threads, options.rounds, options.steps)
            found = in_new_process(measure, *arguments, cores=cores)
            if options.first_use and not options.scaling:
                add_first_use(found, build, threads, cores)
            rows += [{"threads": threads, "pinned": options.pin, **label, **row} for row in found]
    if options.plot:
        plot_scaling(rows, options.plot)
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.scaling:
        print_scaling(rows)
    else:
        print_tables(rows)


if __name__ == "__main__":
    main()
