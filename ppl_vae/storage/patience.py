"""A write is tried again where the cause may pass, and its error says the path and what to do where it does not."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ppl_vae.storage.errors import WriteError

R = TypeVar("R")

PAUSES = (0.1, 1.0)
"""Seconds before each further try."""
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
if os.name == "nt":
    _PASSING.add(errno.EACCES)  # somebody has the file open


def patiently(path: str | Path, write: Callable[[], R]) -> R:
    """What ``write()`` returns; it begins anew in each try, and cleans up after itself.

    Raises:
        WriteError: it raised an OSError, to the last.
    """
    for pause in (*PAUSES, None):
        try:
            return write()
        except WriteError:
            raise
        except OSError as error:
            if pause is None or error.errno not in _PASSING:
                raise WriteError(path, error) from error
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")
