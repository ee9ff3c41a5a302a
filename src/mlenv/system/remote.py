"""The RECORD of a wheel that lies on an index, by a few HTTP range requests: the wheel itself is not fetched.

What is asked is never needed: whoever doesn't answer, or not in time, is passed over.
"""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from mlenv.system import cache as kept
from mlenv.system.web import Client
from mlenv.values import dataclass

_TAIL = 64 * 1024
_WORKERS = 8
_TIMEOUT_SECONDS = 3.0
_PATIENCE_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A wheel: its URL, the SHA-256 that names its RECORD in the cache, its bytes where the index says so."""

    name: str
    url: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The RECORDs by package, and of each that isn't there the reason."""

    records: Mapping[str, str]
    passed_over: Mapping[str, str]


def records(wanted: Iterable[Wanted], *, logins: Mapping[str, str], env: Mapping[str, str], offline: bool) -> Answer:
    """The RECORDs of these wheels, from the cache and else from their indexes, within seconds.

    ``logins`` are ``user:password`` by origin (``https://host:port``).
    """
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    asked: deque[Wanted] = deque()
    for wheel in wanted:
        if (text := kept.record(wheel.sha256)) is not None:
            found[wheel.name] = text
        elif offline or not wheel.url.startswith(("http://", "https://")):
            missing[wheel.name] = "not asked"
        else:
            missing[wheel.name] = "no answer in time"
            asked.append(wheel)
    if asked:
        _ask(asked, found, missing, logins=logins, env=env)
    return Answer(records=dict(found), passed_over={n: why for n, why in dict(missing).items() if n not in found})


def _ask(
    asked: deque[Wanted],
    found: dict[str, str],
    missing: dict[str, str],
    *,
    logins: Mapping[str, str],
    env: Mapping[str, str],
) -> None:
    """Several at a time, until the patience is over; the threads end with the process."""
    silent: set[str] = set()

    def work() -> None:
        client = Client(logins=logins, env=env, timeout=_TIMEOUT_SECONDS)
        while True:
            try:
                wheel = asked.popleft()
            except IndexError:
                return
            host = urlsplit(wheel.url).netloc
            try:
                if host not in silent:
                    found[wheel.name] = _record(client, wheel)
                    kept.put_record(wheel.sha256, found[wheel.name])
            except Exception as error:  # whatever an index answers: it was only a question
                silent.add(host)
                missing[wheel.name] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_WORKERS, len(asked)))]
    end = time.monotonic() + _PATIENCE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _record(client: Client, wheel: Wanted) -> str:
    with zipfile.ZipFile(_RemoteFile(client, wheel)) as archive:
        [name] = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/RECORD")]
        return archive.read(name).decode("utf-8")


def _stretch(client: Client, url: str, stretch: str) -> tuple[bytes, int]:
    """The bytes of a stretch, and the size of the whole file. Raises OSError or HTTPException."""
    response = client.open(url, {"Range": stretch})
    if response.status == 206:
        return response.read(), int(response.headers["Content-Range"].rpartition("/")[2])
    client.close()  # rather than read what may be the whole file
    told = "no range requests" if response.status == 200 else f"{response.status} {response.reason}"
    raise OSError(f"{urlsplit(url).hostname} answers {told}")


class _RemoteFile(io.RawIOBase):
    """A file on an index, of which one stretch is held; what is read outside of it is asked for.

    A zip is read from its end: first its directory, then, close before it as a rule, the RECORD.
    """

    def __init__(self, client: Client, wheel: Wanted) -> None:
        super().__init__()
        self._client, self._url, self._position = client, wheel.url, 0
        self._start, self._data = 0, b""
        self._size = wheel.size or _stretch(client, wheel.url, "bytes=0-0")[1]
        self._hold(max(0, self._size - _TAIL), self._size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        first, last = self._position, min(self._position + len(buffer), self._size)
        if first >= last:
            return 0
        if first < self._start or last > self._start + len(self._data):
            self._hold(first, min(max(last, first + _TAIL), self._size))
        part = self._data[first - self._start : last - self._start]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _hold(self, first: int, end: int) -> None:
        self._data, self._start = _stretch(self._client, self._url, f"bytes={first}-{end - 1}")[0], first
        if len(self._data) != end - first:
            raise OSError(f"{len(self._data)} bytes instead of {end - first}")
