"""Posteriors of posteriordb as plain Pyro models on raw data: one call of ppl_vae.fit each, and the peers.

The ten posteriors need the folder of their files (data, reference moments and evidence, one JSON a posterior); without
it there is the breast cancer regression alone. One process, one thread; seconds are those of the processor, compilers
that a library starts among them.

    python benchmarks/posteriordb.py --data DIR              ours: gap to the reference log Z, moments, k-hat, seconds
    python benchmarks/posteriordb.py --data DIR --check      is each model the file's? log Z without any fit
    python benchmarks/posteriordb.py --data DIR --check --peers   are the peers' models ours?
    python benchmarks/posteriordb.py --data DIR --peers      and Pyro, NumPyro, PyMC: seconds to within 0.1 nat
    python benchmarks/posteriordb.py --smoke                 seconds

A gap is the reference's log Z less the ELBO, by fresh independent draws of the guide. Limits: the gap of the normal
with the reference's moments + 0.02 nat (or the number printed); means within 0.1 sd + 4 Monte Carlo errors and sds
within 10 %, of the guide's own draws, or, where a full-rank normal is known to be too narrow, of the weighted ones.

A peer's time is the first at which its ELBO, on our density in double precision and on common noise, is within 0.1 nat
of the best full-rank normal and stays there; the clock stands still while that is measured. A run ends at the cap, or
when it has been within for twice as long as it took and 5 s more. A run that does not get there counts as the cap.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from posteriors import BREAST_CANCER, POSTERIORS, Posterior, Reference
from posteriors.comparison import Comparison, compare, first_line
from posteriors.oracle import LogDensity, evidence
from posteriors.ours import Moments, Result, measure
from posteriors.peers import PEERS
from posteriors.posterior import Data
from posteriors.race import Unavailable
from posteriors.same_density import largest_difference, numpyro_density, pymc_density
from posteriors.shown import SHOWN, show

TARGET = 20.0
SLACK = 0.02
LADDER_GAP = 0.10
EVIDENCE_ERRORS = 4.5


def check(folder: Path, posteriors: list[Posterior], draws: int) -> bool:
    """Print log Z by importance sampling beside the reference's; True where each lies within four errors."""
    print(f"log Z by {draws} draws of a Student t(6) at the reference's moments; z is the difference in errors")
    print(f"{'posterior':16}{'log Z':>11}{'':>9}{'reference':>12}{'':>9}{'z':>7}{'draws':>9}  many at once")
    good = True
    for posterior in posteriors:
        file = posterior.read(folder)
        reference = posterior.reference(file)
        log_density = LogDensity(posterior, posterior.data(file))
        found = evidence(log_density, reference, count=draws)
        z = (found.log_evidence - reference.log_evidence) / math.hypot(found.error, reference.error)
        good = good and abs(z) <= 4
        print(
            f"{posterior.name:16}{found.log_evidence:11.4f} ± {found.error:.4f} {reference.log_evidence:11.4f} ± "
            f"{reference.error:.4f}{z:+7.1f}{found.effective:9.0f}  {'yes' if log_density.vectorizes else 'NO':12}  "
            f"{'PASS' if abs(z) <= 4 else 'FAIL'}"
            + (f"  ({posterior.constant:+.4f}: {posterior.because})" if posterior.because else ""),
            flush=True,
        )
    return good


def check_peers(folder: Path, posteriors: list[Posterior]) -> None:
    """Print how far the peers' log densities are from ours at draws around the reference."""
    for library, density in {"NumPyro": numpyro_density, "PyMC": pymc_density}.items():
        for posterior in posteriors:
            file = posterior.read(folder)
            data = posterior.data(file)
            try:
                off = largest_difference(LogDensity(posterior, data), data, posterior.reference(file), density)
            except Unavailable as error:
                print(f"{library} skipped: {error}")
                break
            print(f"{posterior.name:16}{library:8} log density off by at most {off:.2g} nat", flush=True)


def limits(
    posterior: Posterior, reference: Reference, found: Result, gap_limit: float | None
) -> list[tuple[str, bool]]:
    """What must hold of a fit, in words, and whether it does."""
    gap, error = reference.log_evidence - found.elbo, math.hypot(found.error, reference.error)
    if gap_limit is None:
        gap_limit = posterior.gap_limit
    if gap_limit is None:
        gap_limit = (reference.matched_gap or 0.0) + SLACK
    lines = [(f"gap {gap:.4f} ± {error:.4f} <= {gap_limit:.4f}", gap <= gap_limit)]
    if found.guide is not None and found.weighted is not None:
        which = "guide" if posterior.guide_is_enough or found.guide.good else "weighted"
        moments = found.guide if which == "guide" else found.weighted
        lines.append((f"{which} draws: {words(moments)}", moments.good))
    else:
        allowed = EVIDENCE_ERRORS * math.hypot(found.evidence_error, reference.error)
        value = number(found.log_evidence, found.evidence_error)
        close = abs(found.log_evidence - reference.log_evidence) <= allowed
        lines.append((f"log Z {value}, within {EVIDENCE_ERRORS} errors of {reference.log_evidence}", close))
    seconds = (
        f"{found.processor:.2f} s of the processor <= {posterior.seconds_limit} s ({found.seconds:.2f} s on the wall)"
    )
    return [*lines, (seconds, found.processor <= posterior.seconds_limit)]


def number(value: float, error: float) -> str:
    """A value with its error bar, if it has one."""
    return f"{value:.4f} ± {error:.4f}" if math.isfinite(error) else f"{value:.4f} without an error bar"


def words(moments: Moments) -> str:
    """The worst mean and the worst sds."""
    return (
        f"means off by at most {float(moments.error.max()):.3f} sd (± {float(moments.mcse.max()):.3f}), sd ratios "
        f"{float(moments.ratio.min()):.3f} to {float(moments.ratio.max()):.3f}, {moments.effective:.0f} draws"
    )


def attempt(
    posterior: Posterior, data: Data, reference: Reference, *, gap_limit: float | None = None, **options: Any
) -> tuple[Result | None, dict[str, Any]]:
    """Fit, measure and print; where that breaks, None and the error, and no limit is kept."""
    label = f" (guide={options['guide']!r})" if "guide" in options else ""
    try:
        found = measure(posterior, data, reference, **options)
    except Exception as error:  # the others are still to be measured
        traceback.print_exc()
        print(f"FAIL  {posterior.name}{label}: {first_line(error)}", flush=True)
        return None, {"error": first_line(error), "limits": {"a fit": False}}
    return found, report(posterior, reference, found, label, gap_limit)


def report(
    posterior: Posterior, reference: Reference, found: Result, label: str, gap_limit: float | None
) -> dict[str, Any]:
    """Print one fit and whether it keeps its limits."""
    print(
        f"{posterior.name}{label}: ELBO {found.elbo:.4f} ± {found.error:.4f}, log Z {reference.log_evidence:.4f} ± "
        f"{reference.error:.4f} (ours {number(found.log_evidence, found.evidence_error)}), "
        f"k-hat {found.khat:.2f}"
    )
    for which, moments in {"guide": found.guide, "weighted": found.weighted}.items():
        if moments is not None:
            print(f"      {which} draws: {words(moments)}")
    if found.certificate:
        print("      " + found.certificate.replace("\n", "\n      "))
    held = limits(posterior, reference, found, gap_limit)
    for line, good in held:
        print(f"{'PASS' if good else 'FAIL'}  {line}", flush=True)
    gap = reference.log_evidence - found.elbo
    return {**found.row(), "reference": reference.log_evidence, "gap": gap, "limits": dict(held)}


def race(comparison: Comparison) -> None:
    """Print the methods of one posterior."""
    print(f"      best full-rank ELBO {comparison.best:.4f}")
    for name, line in comparison.lines.items():
        if line.race is None and name != "ours":
            print(f"      {name:26} skipped: {line.note}")
            continue
        reached = f">{comparison.cap:7.0f}" if line.seconds is None else f"{line.seconds:8.2f}"
        compiled = f"{line.compile_seconds:6.2f} of it compiling" if line.compile_seconds else ""
        below = f"{comparison.best - line.last:12.4g} below at {line.ran:.1f} s" if math.isfinite(line.last) else ""
        print(f"      {name:26}{reached} s  {compiled:24}{below}  {line.note}", flush=True)
    if comparison.ratio:
        bare = comparison.ratio_of(comparison.running)
        print(
            f"      {comparison.ratio[1]} takes {comparison.ratio[0]:.1f} times as long as ours"
            + (f" ({bare[1]} {bare[0]:.1f} times if its compiling is left out)" if bare else ""),
            flush=True,
        )


def others(posterior: Posterior, data: Data, reference: Reference, methods: list[str]) -> dict[str, Any]:
    """Print what maximizes something else than the full-rank ELBO; it counts for nothing."""
    rows: dict[str, Any] = {}
    for method in methods:
        try:
            seconds, moments = show(posterior, data, reference, method)
        except Unavailable as error:
            print(f"      {method:26} skipped: {error}")
        except Exception as error:  # its own, on this posterior
            rows[method] = {"note": first_line(error)}
            print(f"      {method:26} {first_line(error)}", flush=True)
        else:
            rows[method] = {"seconds": seconds, **moments.row()}
            print(f"      {method:26}{seconds:8.2f} s  {words(moments)}", flush=True)
    return rows


def one(posterior: Posterior, options: argparse.Namespace) -> dict[str, Any]:
    """Fit, measure and compare on one posterior."""
    file = posterior.read(options.data)
    data, reference = posterior.data(file), posterior.reference(file)
    found, row = attempt(posterior, data, reference, draws=options.draws, steps=options.steps)
    rows = {"ours": row}
    if options.ladder and not posterior.guide_is_enough:
        limit = LADDER_GAP if posterior.name == "eight_schools" else None
        _, rows["ladder"] = attempt(posterior, data, reference, draws=options.draws, guide="auto", gap_limit=limit)
    if options.peers and posterior is not BREAST_CANCER:
        comparison = compare(posterior, data, reference, found, chosen(PEERS, options), options.cap)
        race(comparison)
        rows["peers"] = comparison.row()
        rows["shown"] = others(posterior, data, reference, chosen(SHOWN, options))
    return rows


def chosen(methods: Iterable[str], options: argparse.Namespace) -> list[str]:
    """Those of the methods that were asked for."""
    return [method for method in methods if method in options.methods]


def conclude(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print what holds in all."""
    held = [good for row in rows.values() for good in row["ours"]["limits"].values()]
    print(f"{sum(held)} of {len(held)} limits kept on {len(rows)} posteriors")
    ratios = [row["peers"]["ratio"] for row in rows.values() if row.get("peers", {}).get("ratio")]
    if ratios:
        middle = statistics.median(ratios)
        each = ", ".join(f"{ratio:.0f}" for ratio in sorted(ratios))
        verdict = "PASS" if middle >= TARGET else "FAIL"
        print(f"{verdict}  the best stochastic peer takes {middle:.1f} times as long, median of {len(ratios)} ({each})")
        bare = statistics.median(row["peers"]["ratio_without_compiling"] for row in rows.values() if row.get("peers"))
        print(f"      {bare:.1f} times if the compiling of JAX and PyTensor is left out (ours is not)")
    if options.out:
        found = {"draws": options.draws, "cap": options.cap, "posteriors": rows}
        options.out.write_text(json.dumps(finite(found), indent=1, allow_nan=False) + "\n")


def finite(tree: Any) -> Any:
    """The same with None for what is no finite number, which JSON does not have."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def main() -> None:
    """Print what was asked for."""
    names, peers = [*POSTERIORS, BREAST_CANCER.name], [*PEERS, *SHOWN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the JSON files of the ten")
    parser.add_argument("--check", action="store_true", help="log Z of each model against the file's, without a fit")
    parser.add_argument("--peers", action="store_true", help="run the peers too")
    parser.add_argument("--ladder", action="store_true", help='where a normal is too narrow, guide="auto" too')
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--methods", nargs="+", choices=peers, default=peers, metavar="PEER", help=", ".join(peers))
    parser.add_argument("--cap", type=float, default=120.0, help="seconds a run of a peer")
    parser.add_argument("--draws", type=int, default=100_000, help="fresh draws of each measurement")
    parser.add_argument("--steps", type=int, default=0, help="train ours for so many steps; 0: until it is done")
    parser.add_argument("--out", type=Path, help="a JSON file of all that is printed")
    parser.add_argument("--smoke", action="store_true", help="few draws, few steps")
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    torch.set_num_threads(1)
    if options.smoke:
        options.draws, options.steps, options.cap = 200, 20, 1.0
    posteriors = [POSTERIORS[name] for name in options.only if name in POSTERIORS and options.data]
    if options.check:
        if not options.data:
            parser.error("--check needs --data")
        if options.peers:
            check_peers(options.data, posteriors)
        sys.exit(0 if check(options.data, posteriors, options.draws) else 1)
    if not options.data:
        print("no --data: the breast cancer regression alone")
    posteriors += [BREAST_CANCER] if BREAST_CANCER.name in options.only else []
    conclude({posterior.name: one(posterior, options) for posterior in posteriors}, options)


if __name__ == "__main__":
    main()
