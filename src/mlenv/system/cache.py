"""mlenv's own cache, one for all projects of a user: what can be made again at any time.

Entries appear by rename, whole, and never change; nobody needs a lock.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel that was built here."""

    path: Path
    sha256: str


def folder() -> Path:
    """Where it is: ``mlenv`` in the platform's cache folder (``XDG_CACHE_HOME``)."""
    import platformdirs

    return platformdirs.user_cache_path("mlenv", appauthor=False)


def writable(path: Path, *, otherwise: Path) -> Path:
    """``path``, made where it is missing; ``otherwise`` where nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return otherwise
    return path if os.access(path, os.W_OK) else otherwise


def wheel(key: str) -> Wheel | None:
    """The wheel that was built under ``key``; None where there is none, or where its bytes are no longer those."""
    entry = _built(key)
    try:
        [path] = entry.glob("*.whl")
        expected = (entry / "sha256").read_text(encoding="utf-8").strip()
        return Wheel(path=path, sha256=expected) if _sha256(path) == expected else None
    except (OSError, ValueError):
        return None


def put_wheel(key: str, built: Path) -> Wheel:
    """Keep a wheel under ``key``. Where the cache can't be written, it is the one in ``built``."""
    made = Wheel(path=built, sha256=_sha256(built))
    entry = _built(key)
    staging: Path | None = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
        shutil.copyfile(built, staging / built.name)
        (staging / "sha256").write_text(made.sha256 + "\n", encoding="utf-8")
        staging.rename(_vacated(entry, key))
    except OSError:  # the disk is full, or another mlenv was faster
        return wheel(key) or made
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return Wheel(path=entry / built.name, sha256=made.sha256)


def record(sha256: str) -> str | None:
    """The RECORD of the wheel with this hash, as it was read once; None where it wasn't."""
    try:
        return gzip.decompress(_record(sha256).read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error):
        return None


def put_record(sha256: str, text: str) -> None:
    """Keep the RECORD of a wheel, where the cache can be written."""
    path = _record(sha256)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(gzip.compress(text.encode("utf-8"), mtime=0))
        Path(temporary).replace(path)


def _record(sha256: str) -> Path:
    return folder() / "records" / f"{sha256}.gz"


def _vacated(entry: Path, key: str) -> Path:
    """``entry``, with a damaged one moved out of the way."""
    if wheel(key) is None:
        with suppress(OSError):
            shutil.rmtree(entry)
    return entry


def _built(key: str) -> Path:
    return folder() / "built" / key


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
