"""A file that holds its own SHA-256: computed while the place of the digest is filled with zeros.

So every byte of the file is covered, the digest included, and one format serves JSON and safetensors alike.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ppl_vae.storage.errors import StorageError

UNSEALED = "0" * 64


def sha256(raw: bytes) -> str:
    """The SHA-256 of ``raw`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def seal(raw: bytes) -> bytes:
    """``raw`` with the digest in place of its first 64 zeros that stand as a JSON string."""
    return raw.replace(_quoted(UNSEALED), _quoted(sha256(raw)), 1)


def check_seal(raw: bytes, digest: object, path: str | Path) -> None:
    """Raise :class:`StorageError` unless ``digest``, found in ``raw``, is that of ``raw``."""
    if not isinstance(digest, str) or sha256(raw.replace(_quoted(digest), _quoted(UNSEALED), 1)) != digest:
        raise StorageError(path, "the content does not match its digest; the file is damaged or was changed")


def _quoted(digest: str) -> bytes:
    return f'"{digest}"'.encode()
