"""One process makes a fit: where several are at work, each would make the whole of it, and nobody would say so."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["require_one_process", "world_size"]


def require_one_process(who: str) -> None:
    """Refuse a fit that is one of several.

    Raises:
        ValueError: ``torch.distributed`` runs over several processes, or a launcher (``torchrun``) has started this
            process as one of several.
    """
    several = "is one of {} processes ({}); a fit is made by one process: each would do all the work, and end with a "
    several += "model of its own. "
    joined = _joined()
    if joined > 1:
        raise ValueError(
            f"{who}: this process {several.format(joined, 'torch.distributed')}Run the script by python instead of a "
            "launcher; for a fit of its own in each process, fit without (or after the end of) the process group"
        )
    started = world_size(os.environ)
    if started > 1:
        raise ValueError(
            f"{who}: this process {several.format(started, f'WORLD_SIZE={started}, as torchrun sets it')}Run the "
            "script by python instead; for a fit of its own in each process (another seed, other settings), say so by "
            "os.environ.pop('WORLD_SIZE') before it"
        )


def world_size(environ: Mapping[str, str]) -> int:
    """The number of processes that a launcher of torch's kind has started, 1 where there is none.

    >>> world_size({"WORLD_SIZE": "4", "RANK": "0"}), world_size({"WORLD_SIZE": "4"}), world_size({"SLURM_NTASKS": "4"})
    (4, 1, 1)
    """
    if "RANK" not in environ and "LOCAL_RANK" not in environ:
        return 1  # a cluster's own variable, or one that somebody uses for another purpose
    try:
        return max(int(environ.get("WORLD_SIZE", "1")), 1)
    except ValueError:
        return 1


def _joined() -> int:
    """The size of the process group that this process has joined, 1 where it has joined none."""
    distributed = sys.modules.get("torch.distributed")  # who has joined one has imported it
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())
