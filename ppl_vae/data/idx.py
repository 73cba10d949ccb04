"""The IDX format of the MNIST files: a header of big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_UNSIGNED_BYTES = 0x08


def read_idx(path: str | Path, *, sha256: str | None = None) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped (by its first bytes, not by its name) or not.

    Args:
        path: the file.
        sha256: the digest that the uncompressed content must have, or None to take any content.

    Returns:
        A uint8 tensor of the shape in the header.

    Raises:
        ValueError: a broken gzip stream, another digest, no IDX file of bytes, or one of the wrong length.

    Source of the format: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
    """
    path = Path(path)
    content = _content(path)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"read_idx: the content of {path} must have sha256 {sha256[:12]}..., got {found[:12]}...")
    return _parse(content, path)


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"read_idx: {path} must be a whole gzip file, got a broken one ({error})") from None


def _parse(content: bytes, path: Path) -> Tensor:
    start = 4 + 4 * content[3] if len(content) >= 4 else 0
    if content[:3] != bytes([0, 0, _UNSIGNED_BYTES]) or len(content) < start:
        raise ValueError(
            f"read_idx: {path} must be an IDX file of unsigned bytes, "
            f"got {len(content)} bytes that start with {content[:4]!r}"
        )
    shape = [int(n) for n in np.frombuffer(content[4:start], ">u4")]
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"read_idx: {path} must hold {' x '.join(map(str, shape))} bytes after its header, "
            f"got {len(content) - start}"
        )
    # A copy: numpy's view of bytes is read-only, and torch warns of it.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
