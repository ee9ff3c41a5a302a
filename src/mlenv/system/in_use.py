"""Who uses a generation: the processes that run in it, and the leases that ``mlenv run`` holds on it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEASE_SECONDS = 24 * 3600  # what another host's lease counts since it was last renewed
_RENEWED_SECONDS = 1800.0
_FOLDER = "leases"


@contextmanager
def lease(state: Path, id_: str) -> Iterator[None]:
    """Hold a lease on the generation ``id_`` while a command runs in it; a read-only project has none to hold."""
    path = state / _FOLDER / f"{id_}.{_node()}.{os.getpid()}.json"
    document = {"generation": id_, "host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    except OSError:
        yield
        return
    over = threading.Event()
    threading.Thread(target=_renew, args=(path, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        with suppress(OSError):
            path.unlink()


def _node() -> str:
    import socket  # 2 ms, for what most commands never ask

    return socket.gethostname()


def _renew(path: Path, over: threading.Event) -> None:
    while not over.wait(_RENEWED_SECONDS):
        with suppress(OSError):
            os.utime(path)


def leased(state: Path) -> frozenset[str]:
    """The ids of the generations somebody holds a lease on; leases of processes that are gone are removed."""
    held = set()
    for path in (state / _FOLDER).glob("*.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if _holds(document, age=time.time() - path.stat().st_mtime):
                held.add(str(document["generation"]))
                continue
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with suppress(OSError):
            path.unlink()
    return frozenset(held)


def _holds(document: dict[str, object], *, age: float) -> bool:
    """On this host the process decides, on another one the time."""
    pid = document["pid"]
    if document["host"] != _host() or not Path("/proc/self").exists():
        return age < LEASE_SECONDS
    return isinstance(pid, int) and document["started"] == _started(pid) != ""


def _host() -> str:
    """This host and, as containers share a host's name, the namespace in which its process numbers count."""
    try:
        return f"{_node()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it is no path
    except OSError:
        return _node()


def _started(pid: int) -> str:
    """When a process was started, in ticks since the boot (Linux), so that its number alone is no proof; else ''."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def running() -> frozenset[str]:
    """What running processes were started as, have mapped, and have as VIRTUAL_ENV (Linux); empty elsewhere."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found |= {line.split(None, 5)[5] for line in maps.read_text(errors="replace").splitlines() if "/" in line}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            variables = environ.read_bytes().decode(errors="replace").split("\0")
            found |= {v.partition("=")[2] for v in variables if v.startswith("VIRTUAL_ENV=")}
    for words in Path("/proc").glob("[0-9]*/cmdline"):  # its interpreter is a link, so what is mapped is the base's
        with suppress(OSError):
            found.add(words.read_bytes().partition(b"\0")[0].decode(errors="replace"))
    return frozenset(found)


def runs_in(folder: Path, paths: Collection[str]) -> bool:
    """Whether one of ``paths`` (see ``running``) is ``folder`` or below it."""
    return any(path == str(folder) or path.startswith(f"{folder}{os.sep}") for path in paths)
