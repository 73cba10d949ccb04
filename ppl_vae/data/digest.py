"""What data are, in a few bytes: a digest of all rows, taken once, by which a resumed run knows them again."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.rows import Rows
from ppl_vae.data.source import Source, Stored

__all__ = ["checksums", "rows_digest"]

BLOCK = 1 << 24
"""Bytes of rows that are looked at together."""
MOST_OF_FILES = 1 << 30
"""Bytes of rows in files from which on only so many are read, in blocks spread evenly over all."""
FIRST = 256
"""Rows that are compared of a data set, whose items may cost anything, or differ from call to call."""


def rows_digest(source: Source) -> list[Any]:
    """What tells these rows from others: by column its name, kind, shape of a row, and the digest of its bytes.

    Of rows in memory (arrays, tensors, frames) every byte counts. So it does of memory maps up to 1 GiB, in whatever
    file they lie; of larger ones 1 GiB is read, spread over all rows, and the size and the time of the file count too.
    Of a data set (``torch.utils.data.Dataset``), the first 256 rows do.
    """
    if not len(source):
        return []
    columns = source.columns
    digests = [hashlib.blake2b(digest_size=16) for _ in columns]
    pieces, whole = _pieces(source)
    for piece in pieces:
        rows = source.take(piece)
        for digest, tensor in zip(digests, (*rows.args, *rows.kwargs.values()), strict=True):
            digest.update(_bytes(tensor))
    found: list[Any] = [
        [str(column.name), str(column.dtype), list(column.shape), digest.hexdigest()]
        for column, digest in zip(columns, digests, strict=True)
    ]
    return found if whole else [*found, *(_file(path) for path in _files(source))]


def _pieces(source: Source) -> tuple[Iterator[slice], bool]:
    """Which rows are looked at, a block at a time; and whether these are all that could be."""
    size, row = len(source), max(1, _row_bytes(source))
    step = max(1, BLOCK // row)
    if isinstance(source, Stored) and source.kind == "items":
        return (slice(i, min(i + step, FIRST, size)) for i in range(0, min(FIRST, size), step)), True
    if not _files(source) or size * row <= MOST_OF_FILES:
        return (slice(i, min(i + step, size)) for i in range(0, size, step)), True
    blocks = max(2, MOST_OF_FILES // BLOCK)
    starts = (i * (size - step) // (blocks - 1) for i in range(blocks))
    return (slice(start, start + step) for start in starts), False


def _row_bytes(source: Source) -> int:
    return sum(column.shape.numel() * column.dtype.itemsize for column in source.columns)


def _files(source: Source) -> tuple[str, ...]:
    return source.files if isinstance(source, Stored) else ()


def _file(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in the order of its rows; those of one on the CPU that lies in order are not copied."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy().data


def checksums(rows: Rows) -> list[int]:
    """By column, what builds before this one knew data by: that of the first 256 rows alone."""
    return [zlib.crc32(_bytes(tensor)) for tensor in (*rows.args, *rows.kwargs.values())]
