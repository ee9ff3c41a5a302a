"""Generations: each environment is built complete at ``.mlenv/gen/<id>``, before ``flip`` puts it into use.

Nothing is ever installed into an environment in use. A generation counts only when its marker, ``mlenv.json``, is
there: it is written last, by rename, after everything else has reached the disk (FACTS, reliability 2).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mlenv.errors import EnvironmentBuildError
from mlenv.settings import Layout
from mlenv.system import history, in_use, layer, process
from mlenv.system.files import write_atomically
from mlenv.system.links import is_link
from mlenv.system.uv import remove_tree
from mlenv.values import dataclass

MARKER = "mlenv.json"
PLAN = "pylock.plan.toml"
YOUNG_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished build of an environment; ``manifest`` is what its marker holds."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its name among its project's generations; in the layout ``directory`` it outlives its place."""
        return str(self.manifest.get("id", self.path.name))

    @property
    def layout(self) -> Layout:
        """``link``: it stays where it was built. ``directory``: it changes places with the environment."""
        return "directory" if self.manifest.get("layout") == "directory" else "link"

    @property
    def inputs(self) -> dict[str, str]:
        """What it was built from: name of the input → digest."""
        return {str(name): str(digest) for name, digest in self.manifest.get("inputs", {}).items()}

    @property
    def created(self) -> float:
        """When it was finished, in seconds since the epoch."""
        return float(self.manifest.get("created", 0.0))

    @property
    def planned(self) -> dict[str, str]:
        """name → version of what it was built to hold."""
        return {str(name): str(version) for name, version in self.manifest.get("planned", {}).items()}

    @property
    def key(self) -> str:
        """The digest of the inputs it was built from."""
        return str(self.manifest["key"])

    @property
    def backend(self) -> str:
        """The backend it was built for."""
        return str(self.manifest["backend"])

    @property
    def extras(self) -> tuple[str, ...]:
        """The personal additions (``--with``) it was built with."""
        return tuple(map(str, self.manifest.get("extras", ())))

    @property
    def moved_from(self) -> Path | None:
        """Where it was built, if that is not where it is: its scripts still point there."""
        was = self.manifest.get("path")
        if self.layout == "directory":
            return None
        return None if was is None or Path(str(was)) == self.path.resolve() else Path(str(was))


def folder(state: Path) -> Path:
    """Where generations live."""
    return state / "gen"


def read(path: Path) -> Generation | None:
    """The generation at ``path``, or None where it isn't a finished one."""
    try:
        status = (path / MARKER).stat()
    except OSError:
        return None
    return _read(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@cache
def _read(path: Path, _seen: tuple[int, int, int]) -> Generation | None:
    """The same, once for each marker that was seen: a command asks for all of them several times."""
    try:
        manifest = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not {"key", "backend", "inventory"} <= manifest.keys():
        return None
    return Generation(path=path, manifest=manifest)


def finished(state: Path) -> tuple[Generation, ...]:
    """Every finished generation, the newest first."""
    try:
        found = [read(path) for path in folder(state).iterdir() if not is_link(path)]
    except OSError:
        return ()
    return _newest_first(found)


def known(state: Path, environment: Path) -> tuple[Generation, ...]:
    """Every finished generation, and the one that is ``environment`` itself; the newest first."""
    apart = None if is_link(environment) else read(environment)
    return _newest_first([*finished(state), apart])


def misplaced(state: Path) -> tuple[Generation, ...]:
    """The finished generations that lie under another's name, while the folder of their own is free.

    A ``kill -9`` right after an environment and a new generation changed places leaves one.
    """
    there = finished(state)
    return tuple(g for g in there if g.path.name != g.id and not os.path.lexists(folder(state) / g.id))


def _newest_first(found: Iterable[Generation | None]) -> tuple[Generation, ...]:
    complete = [generation for generation in found if generation is not None]
    return tuple(sorted(complete, key=lambda g: (g.created, g.id), reverse=True))


def current(environment: Path) -> Generation | None:
    """The generation that ``environment`` points to or is, or None."""
    return read(environment.resolve() if is_link(environment) else environment)


def unusable(environment: Path) -> str:
    """What stands at ``environment``, in words, where that is no environment of mlenv's that a command can run in."""
    if not os.path.lexists(environment):
        return "does not exist"
    if not environment.exists():
        return f"is a link to {environment.readlink()}, which does not exist"
    if current(environment) is not None and not python_of(environment).exists():
        return "can't be used: its Python is gone"
    if layer.marked(environment):
        return "is not complete: it is an image's, and its application is missing"
    return "is not an environment that mlenv built"


def begin(state: Path, *, backend: str, key: str) -> Path:
    """A path for a new generation, inside a folder that exists; nothing is there yet."""
    parent = folder(state)
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentBuildError(
            f"can't be written: {error.strerror}", path=str(parent), hint="check its permissions and the space left"
        ) from error
    return free_place(state, f"{backend}-{key.removeprefix('sha256:')[:12]}")


def free_place(state: Path, name: str) -> Path:
    """Where a generation can be called ``name``, or ``name-2`` and so on where that is taken."""
    used = {found.id for found in map(current, history.environments(state)) if found is not None}
    taken = used | {path.name for path in folder(state).iterdir()} | {found.id for found in finished(state)}
    names = (name, *(f"{name}-{number}" for number in range(2, 10_000)))
    return folder(state) / next(free for free in names if free not in taken)


def finish(path: Path, manifest: Mapping[str, Any]) -> Generation:
    """Mark the build at ``path`` complete, once every byte of it is on the disk."""
    _sync_to_disk(path)
    write_atomically(path / MARKER, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    generation = read(path)
    assert generation is not None
    return generation


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What ``sweep`` removed, and what looks unfinished and was left because a process runs in it."""

    gone: tuple[Path, ...] = ()
    busy: tuple[Path, ...] = ()


def sweep(state: Path) -> Swept:
    """Remove what interrupted builds left; the project's lock must be held.

    Never what an environment points to, or what a process runs in: its marker may have been lost since.
    """
    loose = unfinished(state)
    running = in_use.running() if loose else ()
    busy = tuple(path for path in loose if in_use.runs_in(path.resolve(), running))
    gone = tuple(path for path in loose if path not in busy)
    for path in gone:
        path.unlink() if is_link(path) else remove_tree(path)
    return Swept(gone=gone, busy=busy)


def unfinished(state: Path) -> tuple[Path, ...]:
    """What an interrupted build or flip left, or one that is running now makes: folders without marker, and links."""
    try:
        left = [path for path in folder(state).iterdir() if is_link(path) or read(path) is None]
    except OSError:
        return ()
    linked = _in_environments(state) if left else ()
    return tuple(sorted(path for path in left if is_link(path) or path.resolve() not in linked))


def _in_environments(state: Path) -> frozenset[Path]:
    """The generations that an environment points to."""
    return frozenset(path.resolve() for path in history.environments(state))


def prune(state: Path, *, keep: int, current: Generation) -> tuple[Path, ...]:
    """Remove old generations.

    Never one that an environment points to, the ``keep`` newest, one younger than a week, one that a process runs in
    or that somebody holds a lease on.
    """
    newest = [g for g in finished(state) if g.id != current.id]
    old = [g for g in newest[keep - 1 :] if time.time() - g.created > YOUNG_SECONDS]
    running, used = (in_use.running(), in_use.leased(state)) if old else ((), ())
    linked = _in_environments(state)
    free = [g.path for g in old if g.id not in used and g.path.resolve() not in linked]
    gone = [path for path in free if not in_use.runs_in(path.resolve(), running)]
    for path in gone:
        _remove(path)
    return tuple(gone)


def remove(found: Generation) -> None:
    """Remove a generation that nothing uses. Raises EnvironmentBuildError where something of it is left."""
    _remove(found.path)
    if found.path.exists():
        raise EnvironmentBuildError(
            "could not be removed whole", path=str(found.path), hint="check the permissions of its folder"
        )


def _remove(path: Path) -> None:
    with suppress(OSError):
        (path / MARKER).unlink()  # first, so that a half-removed one never counts
    remove_tree(path)


def _sync_to_disk(path: Path) -> None:
    """syncfs where there is one (Linux), as a flush per file would cost seconds."""
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        handle = os.open(path, os.O_RDONLY)
    except (OSError, AttributeError, TypeError):
        if hasattr(os, "sync"):
            os.sync()
        return
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise EnvironmentBuildError(
                f"the new environment did not reach the disk: {os.strerror(number)}", hint="check the disk"
            )
    finally:
        os.close(handle)


def python_of(environment: Path) -> Path:
    """The environment's interpreter."""
    return environment / "Scripts" / "python.exe" if os.name == "nt" else environment / "bin" / "python"


def scripts_of(environment: Path) -> Path:
    """Where the environment's commands are."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def require_private(path: Path, *, env: Mapping[str, str]) -> None:
    """Before anything writes: the interpreter at ``path`` really is a virtual environment's, and this one's.

    Without ``pyvenv.cfg`` its Python would be the base interpreter, and uv would uninstall everything there
    (FACTS, reliability 4). Raises EnvironmentBuildError.
    """
    config = path / "pyvenv.cfg"
    script = "import sys; print(sys.prefix); print(sys.base_prefix)"
    try:
        says_home = config.is_file() and not config.is_symlink() and "home" in config.read_text(encoding="utf-8")
        done = process.run([python_of(path), "-I", "-B", "-c", script], env=env) if says_home else None
    except OSError:
        done = None
    told = done.out.splitlines() if done is not None and done.code == 0 else []
    if len(told) == 2 and Path(told[0]).resolve() == path.resolve() and told[0] != told[1]:
        return
    raise EnvironmentBuildError(
        "this is not a virtual environment of its own; nothing was written",
        path=str(path),
        hint="run `mlenv sync --rebuild`",
    )
