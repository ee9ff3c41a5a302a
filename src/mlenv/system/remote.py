"""The RECORD of a wheel that lies on an index, by a few HTTP range requests: the wheel itself is not fetched.

The only place that asks the network itself: uv has no command for it. What is asked is never needed: whoever doesn't
answer, or not in time, is passed over. Proxies and certificates are those of the usual variables, credentials those of
the indexes' URLs and variables, and netrc; they go to their own host alone.
"""

from __future__ import annotations

import io
import threading
import time
import zipfile
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from mlenv.system import cache as kept

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from ssl import SSLContext

_TAIL = 64 * 1024
_WORKERS = 8
_TIMEOUT_SECONDS = 3.0
_PATIENCE_SECONDS = 6.0
_REDIRECTS = 5


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
        client = _Client(logins=logins, env=env)
        while True:
            try:
                wheel = asked.popleft()
            except IndexError:
                return
            host = _host(urlsplit(wheel.url))
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


def _record(client: _Client, wheel: Wanted) -> str:
    with zipfile.ZipFile(_RemoteFile(client, wheel)) as archive:
        [name] = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/RECORD")]
        return archive.read(name).decode("utf-8")


class _Client:
    """Asks for stretches of files, over one connection to each host: looking up its name again may take seconds."""

    def __init__(self, *, logins: Mapping[str, str], env: Mapping[str, str]) -> None:
        self._logins, self._netrc = logins, env.get("NETRC")
        self._proxies = {name.lower(): value for name, value in env.items() if name.lower().endswith("_proxy")}
        self._connections: dict[tuple[str, str], HTTPConnection] = {}

    def get(self, url: str, stretch: str) -> tuple[bytes, int]:
        """The bytes of a stretch, and the size of the whole file. Raises OSError or HTTPException."""
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            connection, proxied = self._connection(parts)
            path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
            target = f"{parts.scheme}://{_host(parts)}{path}" if proxied else path
            connection.request(
                "GET", target, headers={"Range": stretch, "Accept-Encoding": "identity"} | self._who(parts)
            )
            response = connection.getresponse()
            location = response.headers.get("Location")
            if response.status == 206:
                return response.read(), int(response.headers["Content-Range"].rpartition("/")[2])
            connection.close()  # rather than read what may be the whole file
            if not (300 <= response.status < 400 and location):
                told = "no range requests" if response.status == 200 else f"{response.status} {response.reason}"
                raise OSError(f"{parts.hostname} answers {told}")
            url = urljoin(url, location)
        raise OSError("too many redirects")

    def _connection(self, parts: SplitResult) -> tuple[HTTPConnection, bool]:
        """The connection for a URL, and whether it is asked for by its whole URL (HTTP through a proxy)."""
        from http import client

        proxy = self._proxy(parts)
        key = (parts.scheme, _host(parts))
        if key not in self._connections:
            where = proxy or parts
            default = 443 if where.scheme == "https" else 80
            host, port = where.hostname or "", where.port or default
            made: HTTPConnection
            if parts.scheme == "https":
                made = client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=_certificates())
                if proxy is not None:
                    made.set_tunnel(parts.hostname or "", parts.port or 443, headers=_basic("Proxy-", _user(proxy)))
            else:
                made = client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
            self._connections[key] = made
        return self._connections[key], proxy is not None and parts.scheme == "http"

    def _proxy(self, parts: SplitResult) -> SplitResult | None:
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        url = self._proxies.get(f"{parts.scheme}_proxy") or self._proxies.get("all_proxy")
        if not url or proxy_bypass_environment(parts.hostname, {"no": self._proxies.get("no_proxy", "")}):
            return None
        return urlsplit(url if "://" in url else f"http://{url}")

    def _who(self, parts: SplitResult) -> dict[str, str]:
        """The credentials for this host, and for none that it redirects to."""
        known = unquote(self._logins.get(f"{parts.scheme}://{_host(parts)}", ""))
        headers = _basic("", _user(parts) or known or self._from_netrc(parts.hostname or ""))
        proxy = self._proxy(parts) if parts.scheme == "http" else None
        return headers | (_basic("Proxy-", _user(proxy)) if proxy is not None else {})

    def _from_netrc(self, host: str) -> str | None:
        import netrc

        try:
            login = netrc.netrc(self._netrc or Path.home() / ".netrc").authenticators(host)
        except (OSError, netrc.NetrcParseError, RuntimeError):
            return None
        return f"{login[0]}:{login[2]}" if login is not None else None


@cache
def _certificates() -> SSLContext:
    """Those of SSL_CERT_FILE and SSL_CERT_DIR, else the system's."""
    import ssl

    return ssl.create_default_context()


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _user(parts: SplitResult) -> str:
    return unquote(parts.netloc.rpartition("@")[0])


def _basic(prefix: str, login: str | None) -> dict[str, str]:
    return {f"{prefix}Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}


class _RemoteFile(io.RawIOBase):
    """A file on an index, of which one stretch is held; what is read outside of it is asked for.

    A zip is read from its end: first its directory, then, close before it as a rule, the RECORD.
    """

    def __init__(self, client: _Client, wheel: Wanted) -> None:
        super().__init__()
        self._client, self._url, self._position = client, wheel.url, 0
        self._start, self._data = 0, b""
        self._size = wheel.size or client.get(wheel.url, "bytes=0-0")[1]
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
        self._data, self._start = self._client.get(self._url, f"bytes={first}-{end - 1}")[0], first
        if len(self._data) != end - first:
            raise OSError(f"{len(self._data)} bytes instead of {end - first}")
