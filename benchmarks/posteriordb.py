"""Ten posteriors of posteriordb as plain Pyro models on raw data: is the model the file's?

python benchmarks/posteriordb.py --data DIR --check
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from posteriors import POSTERIORS
from posteriors.oracle import LogDensity, evidence


def check(folder: Path, names: list[str], draws: int) -> bool:
    """Print log Z by importance sampling beside the reference's; True where each lies within four errors."""
    print(f"log Z by {draws} draws of a Student t(6) at the reference's moments; z is the difference in errors")
    print(f"{'posterior':16}{'log Z':>11}{'':>10}{'reference':>12}{'':>10}{'z':>6}{'draws':>9}  many at once")
    good = True
    for name in names:
        posterior = POSTERIORS[name]
        file = posterior.read(folder)
        reference = posterior.reference(file)
        log_density = LogDensity(posterior, posterior.data(file))
        found = evidence(log_density, reference, count=draws)
        z = (found.log_evidence - reference.log_evidence) / math.hypot(found.error, reference.error)
        good = good and abs(z) <= 4
        print(
            f"{name:16}{found.log_evidence:11.4f} ± {found.error:.4f} {reference.log_evidence:11.4f} ± "
            f"{reference.error:.4f}{z:+7.1f}{found.effective:9.0f}  {'yes' if log_density.vectorizes else 'NO'}"
            f"  {'PASS' if abs(z) <= 4 else 'FAIL'}"
            + (f"  ({posterior.constant:+.4f}: {posterior.because})" if posterior.because else ""),
            flush=True,
        )
    return good


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the JSON files")
    parser.add_argument("--check", action="store_true", help="log Z of each model against the file's, without a fit")
    parser.add_argument("--only", nargs="+", choices=list(POSTERIORS), default=list(POSTERIORS), metavar="NAME")
    parser.add_argument("--draws", type=int, default=100_000, help="fresh draws of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check and not check(options.data, options.only, options.draws):
        sys.exit(1)


if __name__ == "__main__":
    main()
