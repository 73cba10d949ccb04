"""Where randomness comes from: a seed and a path of names, never a clock and never a hidden stream.

The noise of step 17 of a run with seed 3 is ``fold(3, "step", 17, rank)``: a function of its place alone. So a resumed
run needs no saved generator, two fits in one process never meet, and the caller's own generators are left as they were.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MASK = (1 << 64) - 1


def _mix(state: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def fold(seed: int, *path: int | str) -> int:
    """Derive a 63-bit seed from ``seed`` and a path of integers and strings.

    Raises:
        TypeError: the seed is no whole number.
        ValueError: it is negative, or of more than 63 bits: such ones would be others in disguise.

    >>> fold(0, "step", 1) == fold(0, "step", 1), fold(0, "step", 1) == fold(0, "step", 2)
    (True, False)
    """
    state = _mix((_required(seed) + 0x9E3779B97F4A7C15) & _MASK)
    for part in path:
        word = int.from_bytes(part.encode(), "little") if isinstance(part, str) else int(part)
        while True:  # a long name enters in pieces of 64 bits
            state = _mix(((state ^ (word & _MASK)) + 0x9E3779B97F4A7C15) & _MASK)
            word >>= 64
            if word in (0, -1):
                break
    return state >> 1


def _required(seed: int) -> int:
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"seed: a whole number is required, got {seed!r}")
    if not 0 <= number < 1 << 63:
        raise ValueError(f"seed: a whole number from 0 to 2**63 - 1 is required, got {seed!r}")
    return number


def generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`fold`: for permutations, which are drawn on the CPU on every device."""
    return torch.Generator().manual_seed(fold(seed, *path))


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the generators that a run on ``device`` draws from.

    ``torch.manual_seed`` does more (it prepares every kind of accelerator) and costs ten times as much.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def isolated_rng(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Run a block on torch's global generators seeded with ``seed``, and give the caller's state back after it."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            seed_generators(seed, device)
        yield
