"""Files fetched to a folder: several at a time, each by its SHA-256, what is there already left alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import unquote, urlsplit

from mlenv.errors import EnvironmentBuildError, IntegrityError, MlenvError, PackageIndexError, UnreachableError
from mlenv.system.uv_messages import answered, mask
from mlenv.system.web import Client
from mlenv.values import dataclass

_WORKERS = 6
_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to be at ``target`` with these bytes; ``url`` may be ``file://``. ``size`` is 0 where nobody knows it."""

    url: str
    sha256: str
    target: Path
    size: int = 0


def is_there(path: Path, sha256: str, *, size: int = 0) -> bool:
    """Whether a file stands at ``path`` and has that hash; a wrong ``size`` saves reading it."""
    try:
        if size and path.stat().st_size != size:
            return False
        return sha256_of(path) == sha256
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    downloads: Iterable[Download],
    *,
    logins: Mapping[str, str],
    env: Mapping[str, str],
    offline: bool,
    fetched: Callable[[Download], None],
) -> None:
    """Fetch each file that isn't there; ``fetched`` is told of each that was. A part that is there is gone on with.

    Raises PackageIndexError, IntegrityError where other bytes come, EnvironmentBuildError where they can't be written.
    """
    waiting = list(downloads)
    answers: SimpleQueue[tuple[Download, bool, BaseException | None]] = SimpleQueue()
    left, lock = list(reversed(waiting)), threading.Lock()

    def work() -> None:
        client = Client(logins=logins, env=env, timeout=_seconds(env))
        while True:
            with lock:
                if not left:
                    return
                download = left.pop()
            try:
                answers.put((download, _had(download, client, env=env, offline=offline), None))
            except BaseException as error:  # raised again by who waits for it
                answers.put((download, False, error))

    for _ in range(min(_WORKERS, len(waiting))):
        threading.Thread(target=work, daemon=True).start()  # ends with the process, whatever it waits for
    for _ in waiting:
        download, was_fetched, error = answers.get()
        if error is not None:
            with lock:
                left.clear()
            raise error
        if was_fetched:
            fetched(download)


def _had(download: Download, client: Client, *, env: Mapping[str, str], offline: bool) -> bool:
    """Have the file; whether it had to be fetched."""
    if is_there(download.target, download.sha256, size=download.size):
        return False
    part = download.target.with_name(f".{download.target.name}.part")
    parts = urlsplit(download.url)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if parts.scheme == "file":
            _copied(Path(unquote(parts.path)), part)
            if (found := sha256_of(part)) != download.sha256:
                raise _other_bytes(download, found)
        elif offline:
            raise PackageIndexError(
                f"{download.target.name} has to be fetched, and the network is switched off",
                hint="run it again without --offline (or UV_OFFLINE)",
            )
        else:
            _insist(client, download, part, attempts=1 + int(_number(env, "UV_HTTP_RETRIES", _RETRIES)))
        os.replace(part, download.target)  # noqa: PTH105 - named for what it does
    except OSError as error:
        raise EnvironmentBuildError(
            f"can't be written: {error.strerror or error}",
            path=str(download.target),
            hint="check the permissions of its folder and the space left",
        ) from error
    return True


def _copied(source: Path, part: Path) -> None:
    try:
        shutil.copyfile(source, part)
    except FileNotFoundError as error:
        raise PackageIndexError(f"{source} is not there any more", hint="lock again: `mlenv lock`") from error


def _insist(client: Client, download: Download, part: Path, *, attempts: int) -> None:
    """Fetch it; a part that an earlier call left may have been of something else, and is tried once.

    Raises UnreachableError, PackageIndexError, IntegrityError, OSError where the part can't be written.
    """
    found = ""
    for _ in range(2 if part.exists() else 1):
        _complete(client, download, part, attempts=attempts)
        found = sha256_of(part)
        if found == download.sha256:
            return
        part.unlink()
    raise _other_bytes(download, found)


def _other_bytes(download: Download, found: str) -> IntegrityError:
    return IntegrityError(
        f"{download.target.name} is not the file it should be: its bytes differ from the hash\n"
        f"expected sha256:{download.sha256}\ncomputed sha256:{found}",
        hint="the index, or something between it and you, changed the file: "
        "compare with the index before you trust either",
    )


def _complete(client: Client, download: Download, part: Path, *, attempts: int) -> None:
    """Ask for the rest of the file, again where the connection breaks: what has come stays."""
    for attempt in range(1, attempts + 1):
        try:
            _ask_for_rest(client, download, part)
        except (_BrokenError, PackageIndexError) as error:
            client.close()
            final = attempt == attempts or (isinstance(error, PackageIndexError) and not _may_pass(error))
            if final:
                raise _told(error, download) from error
            time.sleep(min(2.0 ** (attempt - 1), 8.0))
        else:
            return


class _BrokenError(Exception):
    """The connection broke, or never came about."""


def _told(error: _BrokenError | PackageIndexError, download: Download) -> MlenvError:
    if isinstance(error, PackageIndexError):
        return error
    return UnreachableError(
        f"{mask(download.url)} can't be fetched: {error}",
        hint="run it again: what has come stays; a proxy's own certificate is named in SSL_CERT_FILE",
    )


def _may_pass(error: PackageIndexError) -> bool:
    return any(f"answered {status}" in error.message for status in ("408", "429", "500", "502", "503", "504"))


def _ask_for_rest(client: Client, download: Download, part: Path) -> None:
    """Add to ``part`` what it lacks. Raises _BrokenError, PackageIndexError, OSError where it can't be written."""
    there = part.stat().st_size if part.exists() else 0
    try:
        response = client.open(download.url, {"Range": f"bytes={there}-"} if there else {})
    except (OSError, HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error
    if response.status == 416:  # there is no rest
        client.close()
        return
    if response.status not in (200, 206):
        client.close()
        raise answered(mask(download.url), f"{response.status} {response.reason}")
    with part.open("ab" if response.status == 206 else "wb") as file:
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, HTTPException) as error:
                raise _BrokenError(str(error) or type(error).__name__) from error
            if not block:
                break
            file.write(block)
    if response.length:  # http.client says nothing where the sender hung up in the middle of a block
        raise _BrokenError(f"{response.length} bytes are missing at its end")


def _seconds(env: Mapping[str, str]) -> float:
    return _number(env, "UV_HTTP_TIMEOUT", _number(env, "UV_REQUEST_TIMEOUT", _TIMEOUT_SECONDS))


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(env[name])
    except (KeyError, ValueError):
        return default
