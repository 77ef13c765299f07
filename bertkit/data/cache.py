"""Arrays by the hash of what they were made from, kept between runs: encoded splits.

A file is written beside and renamed, so that processes at once never see half of one; it ends in the SHA-256 of what
stands before, so that a damaged one is noticed and made anew. Nothing that goes wrong here ends a run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 2 * 1024**3
"""What all files may have together; beyond, those that were not used for longest are removed."""
DIGEST = hashlib.sha256().digest_size


def folder() -> Path | None:
    """Return where the files are: ``BERTKIT_CACHE``, else ``bertkit/features`` in the user's cache folder.

    None where there is no such place: ``BERTKIT_CACHE`` is empty, or the user has no home.
    """
    named = os.environ.get("BERTKIT_CACHE")
    if named is not None:
        return Path(named) if named else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertkit" / "features"
    except RuntimeError:
        return None


def read(key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays that are kept under a key; None where there are none, or not whole ones."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    place = folder()
    if place is None:
        return None
    file = place / key
    try:
        data = file.read_bytes()
        if hashlib.sha256(memoryview(data)[:-DIGEST]).digest() == data[-DIGEST:]:
            # Another user's file, in a folder that several share, is read and not touched.
            with suppress(OSError):
                os.utime(file)
            return dict(load(data[:-DIGEST]))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        pass
    with suppress(OSError):
        file.unlink()
    return None


def write(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under a key, if the place and the size bound allow."""
    from safetensors.numpy import save

    place = folder()
    if place is None or sum(array.nbytes for array in arrays.values()) > MOST_BYTES // 2:
        return
    beside = place / f".{uuid4().hex}"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = save(dict(arrays))
        with beside.open("wb") as file:
            file.write(data)
            file.write(hashlib.sha256(data).digest())
        os.replace(beside, place / key)
        bound(place, MOST_BYTES)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def bound(place: Path, most: int) -> None:
    """Remove the files that were not used for longest until the others are small enough; folders stay."""
    files = []
    for file in place.iterdir():
        # Another process may remove it in the meantime.
        with suppress(FileNotFoundError):
            if file.is_file():
                files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = 0
    for _, size, file in sorted(files, reverse=True):
        total += size
        if total > most:
            file.unlink(missing_ok=True)
