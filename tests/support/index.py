"""Package indexes on the loopback interface, several in one server, which can be made to fail.

``/<index>/simple/<name>/`` is a page (HTML, PEP 503, or JSON, PEP 691 and 700), ``/<index>/files/<file>`` a file and
``/<index>/files/<file>.metadata`` its metadata (PEP 658). Files and faults can be changed while it runs; nothing is
cached by a client without asking again.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from support.wheels import Package

Part = Literal["page", "file", "metadata"]
_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What one index offers: JSON pages, hashes, PEP 658 metadata, range requests; who may enter (user, password)."""

    json: bool = True
    hashes: bool = True
    metadata: bool = True
    ranges: bool = True
    credentials: tuple[str, str] | None = None
    cache_control: str = "no-cache"


@dataclass(frozen=True)
class Status:
    """Answer with this status; ``headers`` such as Retry-After."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptivePortal:
    """Answer 200 with a log-in page, whatever was asked."""


@dataclass(frozen=True)
class Truncated:
    """Announce the whole body, send half of it and close."""


@dataclass(frozen=True)
class Dropped:
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Slow:
    """Wait, then answer."""

    seconds: float


@dataclass(frozen=True)
class Stalled:
    """Announce the whole body, send half of it and keep silent, the connection open."""


@dataclass(frozen=True)
class WrongHash:
    """List a sha256 that the file does not have; uv compares only with a hash that it was given or locked."""


REDIRECT_LOOP = Status(302, {"Location": "?again"})
Fault = Status | CaptivePortal | Truncated | Dropped | Slow | Stalled | WrongHash


@dataclass(frozen=True, kw_only=True)
class Request:
    """One line of the log. ``authorized`` says that credentials were sent, right or wrong; ``range`` is that header."""

    method: str
    path: str
    authorized: bool
    range: str | None
    status: int | None


@dataclass(frozen=True, kw_only=True)
class _Rule:
    fault: Fault
    package: str | None
    part: Part | None
    times: int | None


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a path asks for; a page without ``package`` is the list of all."""

    index: str
    part: Part
    package: str | None = None
    filename: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    stalled: bool = False


class LoopbackIndex:
    """The server, as a context manager: ``add`` packages to named indexes, hand ``url(name)`` to a client."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._files: defaultdict[str, dict[str, Package]] = defaultdict(dict)
        self._settings: defaultdict[str, IndexSettings] = defaultdict(IndexSettings)
        self._rules: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, index: str, *packages: Package) -> Self:
        """Publish files; one of the same file name takes the old one's place, as a tampered index would do it."""
        with self._lock:
            self._files[index].update({package.filename: package for package in packages})
        return self

    def remove(self, index: str, name: str) -> None:
        """Take every file of a package away: its page is 404 from now on."""
        with self._lock:
            kept = {key: value for key, value in self._files[index].items() if value.normalized != name}
            self._files[index] = kept

    def configure(self, index: str, settings: IndexSettings) -> None:
        """What the index offers from now on."""
        self._settings[index] = settings

    def fail(
        self,
        index: str,
        fault: Fault,
        *,
        package: str | None = None,
        part: Part | None = None,
        times: int | None = None,
    ) -> None:
        """Make requests fail: all of an index, or those of one package or part; the first ``times`` of them.

        The latest rule that applies wins.
        """
        with self._lock:
            self._rules[index].insert(0, _Rule(fault=fault, package=package, part=part, times=times))

    def mend(self, index: str) -> None:
        """Take back every fault of the index."""
        with self._lock:
            self._rules[index].clear()

    @property
    def root(self) -> str:
        """The server's address, without a final slash."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def url(self, index: str) -> str:
        """The address to give to a client; an index that has nothing answers 404."""
        return f"{self.root}/{index}/simple"

    def file_url(self, index: str, package: Package) -> str:
        """The address of one file, without a hash."""
        return f"{self.root}/{index}/files/{quote(package.filename)}"

    def count(self, fragment: str = "", *, method: str | None = None) -> int:
        """How many requests had ``fragment`` in their (decoded) path."""
        return sum(fragment in r.path and method in (None, r.method) for r in list(self.requests))

    # The rest is for the handler.

    def wanted(self, path: str) -> _Wanted | None:
        """What the path asks for, None where it is nothing that could exist."""
        match path.strip("/").split("/"):
            case [index, "simple"]:
                return _Wanted(index=index, part="page")
            case [index, "simple", package]:
                return _Wanted(index=index, part="page", package=package)
            case [index, "files", filename]:
                part: Part = "metadata" if filename.endswith(".metadata") else "file"
                filename = filename.removesuffix(".metadata")
                found = self._files[index].get(filename)
                return _Wanted(index=index, part=part, package=found.normalized if found else None, filename=filename)
        return None

    def fault(self, wanted: _Wanted) -> Fault | None:
        """The fault that applies now; one that was set for a number of times is used up by this."""
        with self._lock:
            for position, rule in enumerate(self._rules[wanted.index]):
                if rule.package not in (None, wanted.package) or rule.part not in (None, wanted.part):
                    continue
                if isinstance(rule.fault, WrongHash) and wanted.part != "page":
                    continue
                self._use(wanted.index, position, rule)
                return rule.fault
        return None

    def _use(self, index: str, position: int, rule: _Rule) -> None:
        if rule.times == 1:
            del self._rules[index][position]
        elif rule.times is not None:
            used = _Rule(fault=rule.fault, package=rule.package, part=rule.part, times=rule.times - 1)
            self._rules[index][position] = used

    def answer(self, path: str, headers: Mapping[str, str]) -> _Answer | None:
        """What to send; None closes the connection."""
        wanted = self.wanted(path)
        if wanted is None:
            return _Answer(status=404)
        fault = self.fault(wanted)
        match fault:
            case Status(code, extra):
                return _Answer(status=code, body=HTTPStatus(code).phrase.encode(), headers=extra)
            case CaptivePortal():
                return _Answer(status=200, body=_PORTAL, headers={"Content-Type": _HTML})
            case Dropped():
                return None
            case Slow(seconds):
                self._closing.wait(seconds)
        if not self._may_enter(wanted.index, headers.get("Authorization")):
            return _Answer(status=401, headers={"WWW-Authenticate": f'Basic realm="{wanted.index}"'})
        answer = self._content(wanted, headers, wrong_hash=isinstance(fault, WrongHash))
        stalled = isinstance(fault, Stalled)
        halved = isinstance(fault, Truncated | Stalled) and answer.status in (200, 206)
        return replace(answer, truncated=halved, stalled=stalled and halved)

    def wait(self) -> None:
        """Until the server is closed."""
        self._closing.wait()

    def _may_enter(self, index: str, sent: str | None) -> bool:
        credentials = self._settings[index].credentials
        if credentials is None:
            return True
        return sent == "Basic " + base64.b64encode(":".join(credentials).encode()).decode()

    def _content(self, wanted: _Wanted, headers: Mapping[str, str], *, wrong_hash: bool) -> _Answer:
        settings = self._settings[wanted.index]
        with self._lock:
            files = list(self._files[wanted.index].values())
        if wanted.part == "page":
            json_wanted = settings.json and _JSON in headers.get("Accept", "")
            page = _page(wanted.package, files, settings, wrong_hash=wrong_hash, as_json=json_wanted)
            kind = _JSON if json_wanted else _HTML
            return _Answer(status=404) if page is None else _cached(page, kind, settings, headers)
        found = next((file for file in files if file.filename == wanted.filename), None)
        if found is None or (wanted.part == "metadata" and not _has_metadata(found, settings)):
            return _Answer(status=404)
        if wanted.part == "metadata":
            return _cached(found.metadata, "text/plain", settings, headers)
        return _ranged(_cached(found.data, "application/octet-stream", settings, headers), settings, headers)


@cache
def _closed_port() -> socket.socket:
    """Bound and never listening: connections are refused, and nobody else can get the port meanwhile."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


def unreachable_url() -> str:
    """The address of an index where nobody answers; connecting is refused at once."""
    return f"http://127.0.0.1:{_closed_port().getsockname()[1]}/simple"


_PORTAL = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><form>Please log in</form></body></html>"


def _has_metadata(package: Package, settings: IndexSettings) -> bool:
    return settings.metadata and package.kind == "wheel"


def _page(
    name: str | None, files: list[Package], settings: IndexSettings, *, wrong_hash: bool, as_json: bool
) -> bytes | None:
    if name is None:
        return _list(sorted({file.normalized for file in files}), as_json=as_json)
    own = [_entry(file, settings, wrong_hash=wrong_hash) for file in files if file.normalized == name]
    if not own:
        return None
    if as_json:
        meta = {"api-version": "1.1"}
        versions = sorted({file.version for file in files if file.normalized == name})
        return json.dumps({"meta": meta, "name": name, "versions": versions, "files": own}).encode()
    links = "".join(_anchor(entry) for entry in own)
    return f"<!DOCTYPE html><html><body><h1>Links for {name}</h1>{links}</body></html>".encode()


def _list(names: list[str], *, as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in names]}).encode()
    links = "".join(f'<a href="{name}/">{name}</a>' for name in names)
    return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


def _entry(file: Package, settings: IndexSettings, *, wrong_hash: bool) -> dict[str, Any]:
    """The file as PEP 691 describes it."""
    digest = hashlib.sha256(b"something else").hexdigest() if wrong_hash else file.sha256
    entry: dict[str, Any] = {"filename": file.filename, "url": f"../../files/{quote(file.filename)}"}
    entry |= {
        "hashes": {"sha256": digest} if settings.hashes else {},
        "size": len(file.data),
        "upload-time": file.upload_time,
    }
    if file.requires_python:
        entry["requires-python"] = file.requires_python
    if file.yanked:
        entry["yanked"] = file.yanked
    if _has_metadata(file, settings):
        entry["core-metadata"] = {"sha256": hashlib.sha256(file.metadata).hexdigest()}
    return entry


def _anchor(entry: Mapping[str, Any]) -> str:
    digest = entry["hashes"].get("sha256")
    attributes = {"href": f"{entry['url']}#sha256={digest}" if digest else entry["url"]}
    if "requires-python" in entry:
        attributes["data-requires-python"] = entry["requires-python"]
    if "yanked" in entry:
        attributes["data-yanked"] = entry["yanked"] if isinstance(entry["yanked"], str) else ""
    if "core-metadata" in entry:
        value = f"sha256={entry['core-metadata']['sha256']}"
        attributes |= {"data-core-metadata": value, "data-dist-info-metadata": value}
    words = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<a {words}>{entry['filename']}</a><br>"


def _cached(body: bytes, kind: str, settings: IndexSettings, headers: Mapping[str, str]) -> _Answer:
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    common = {"ETag": tag, "Cache-Control": settings.cache_control, "Content-Type": kind}
    if headers.get("If-None-Match") == tag:
        return _Answer(status=304, headers=common)
    return _Answer(status=200, body=body, headers=common)


def _ranged(answer: _Answer, settings: IndexSettings, headers: Mapping[str, str]) -> _Answer:
    """The part that a Range header asks for (one range, ``a-b``, ``a-`` or ``-n``)."""
    if answer.status != 200 or not settings.ranges:
        return answer
    common = {**answer.headers, "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
    if asked is None:
        return _Answer(status=200, body=answer.body, headers=common)
    size = len(answer.body)
    first = int(asked[1]) if asked[1] else max(size - int(asked[2] or 0), 0)
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first > last:
        return _Answer(status=416, headers={"Content-Range": f"bytes */{size}"})
    common["Content-Range"] = f"bytes {first}-{last}/{size}"
    return _Answer(status=206, body=answer.body[first : last + 1], headers=common)


class _Server(ThreadingHTTPServer):
    owner: LoopbackIndex
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def server_bind(self) -> None:
        """As the base class does it, less the look-up of this machine's name, which may take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def log_message(self, format: str, *args: Any) -> None:
        """The log is ``LoopbackIndex.requests``."""

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        answer = self.server.owner.answer(path, self.headers)  # type: ignore[arg-type]  # a Message has get()
        entry = Request(
            method=self.command,
            path=path,
            authorized="Authorization" in self.headers,
            range=self.headers.get("Range"),
            status=answer.status if answer else None,
        )
        self.server.owner.requests.append(entry)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.truncated else answer.body)
        if answer.stalled:
            self.wfile.flush()
            self.server.owner.wait()
        self.close_connection = self.close_connection or answer.truncated
