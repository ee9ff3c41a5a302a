"""Generations: each environment is built complete at ``.mlenv/gen/<id>``, then ``.venv`` is flipped to it.

Nothing is ever installed into an environment in use. A generation counts only when its marker, ``mlenv.json``, is
there: it is written last, by rename, after everything else has reached the disk (FACTS, reliability 2).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlenv.errors import EnvironmentBuildError
from mlenv.system import process
from mlenv.system.files import write_atomically
from mlenv.system.uv import remove_tree

MARKER = "mlenv.json"
PLAN = "pylock.plan.toml"
_ENVIRONMENTS = "environments"
YOUNG_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished build of an environment; ``manifest`` is what its marker holds."""

    path: Path
    manifest: Mapping[str, Any]

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
        return None if was is None or Path(str(was)) == self.path.resolve() else Path(str(was))


def folder(state: Path) -> Path:
    """Where generations live."""
    return state / "gen"


def read(path: Path) -> Generation | None:
    """The generation at ``path``, or None where it isn't a finished one."""
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
        found = [read(path) for path in folder(state).iterdir()]
    except OSError:
        return ()
    complete = [generation for generation in found if generation is not None]
    return tuple(sorted(complete, key=lambda g: (float(g.manifest.get("created", 0)), g.path.name), reverse=True))


def current(environment: Path) -> Generation | None:
    """The generation that ``environment`` points to, or None."""
    if not is_link(environment):
        return None
    return read(environment.resolve())


def unusable(environment: Path) -> str:
    """What stands at ``environment``, in words, where that is no environment of mlenv's that a command can run in."""
    if not os.path.lexists(environment):
        return "does not exist"
    if not environment.exists():
        return f"is a link to {environment.readlink()}, which does not exist"
    if current(environment) is not None and not python_of(environment).exists():
        return "can't be used: its Python is gone"
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
    stem = f"{backend}-{key.removeprefix('sha256:')[:12]}"
    taken = {path.name for path in parent.iterdir()}
    name = next(n for n in (stem, *(f"{stem}-{number}" for number in range(2, 10_000))) if n not in taken)
    return parent / name


def finish(path: Path, manifest: Mapping[str, Any]) -> Generation:
    """Mark the build at ``path`` complete, once every byte of it is on the disk."""
    _sync_to_disk(path)
    write_atomically(path / MARKER, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    generation = read(path)
    assert generation is not None
    return generation


def flip(environment: Path, generation: Path) -> Path | None:
    """Make ``environment`` a link to ``generation``, in one step.

    What stood there and isn't a link of mlenv's is moved aside first, never deleted; returns where to.
    Raises EnvironmentBuildError; what stood there then stands there still.
    """
    aside: Path | None = None
    temporary = _not_yet(environment)
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        _remember(generation.parent.parent, environment)
        with suppress(FileNotFoundError):
            temporary.unlink()
        make_link(temporary, _link_target(environment, generation), windows=os.name == "nt")
        aside = _move_aside(environment)
        if os.name == "nt" and is_link(environment):
            environment.rmdir()  # Windows replaces no folder, and a junction is one: for a moment there is none
        temporary.replace(environment)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if aside is not None:
            aside.rename(environment)
        raise EnvironmentBuildError(
            f"can't be made a link to the new environment: {error.strerror}",
            path=str(environment),
            hint="check the permissions of its folder",
        ) from error
    return aside


def _not_yet(environment: Path) -> Path:
    """Where the new link is made: always the same name, so that what ``kill -9`` leaves is found again."""
    return environment.with_name(f".{environment.name}.mlenv")


def make_link(link: Path, target: str, *, windows: bool) -> None:
    """A link to a folder: a junction on Windows, where a symbolic link needs a right that users don't have."""
    if windows:
        import _winapi

        create: Callable[[str, str], None] = _winapi.CreateJunction  # type: ignore[attr-defined]
        create(str((link.parent / target).resolve()), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether it is a symbolic link or, on Windows, a junction."""
    try:
        path.readlink()
    except OSError:
        return False
    return True


def _link_target(environment: Path, generation: Path) -> str:
    """Relative inside the project, so that the project can be looked at from elsewhere; absolute otherwise."""
    base = environment.parent.resolve()
    target = generation.resolve()
    project = target.parents[2]
    return os.path.relpath(target, base) if base.is_relative_to(project) else str(target)


def _move_aside(environment: Path) -> Path | None:
    if _is_own_link(environment) or not os.path.lexists(environment):
        return None
    names = [f"{environment.name}.before-mlenv", *(f"{environment.name}.before-mlenv-{n}" for n in range(2, 1000))]
    aside = next(p for p in map(environment.with_name, names) if not p.exists() and not p.is_symlink())
    environment.rename(aside)
    return aside


def _is_own_link(environment: Path) -> bool:
    """Whether it is a link to a generation, even to one that is gone."""
    if not is_link(environment):
        return False
    target = Path(os.path.normpath(environment.parent / environment.readlink()))
    return target.parts[-3:-1] == (".mlenv", "gen")


def _remember(state: Path, environment: Path) -> None:
    """Note that ``environment`` is a link to a generation in ``state``, so that what it points to is never removed."""
    known = [str(path) for path in _environments(state)]
    if str(environment) not in known:
        lines = "".join(f"{line}\n" for line in [*known, str(environment)])
        write_atomically(state / _ENVIRONMENTS, lines, staging=state)  # half of it would give an environment to prune


def _environments(state: Path) -> list[Path]:
    """Every environment that was made a link to a generation in ``state`` and is a link still."""
    try:
        lines = (state / _ENVIRONMENTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Path(line) for line in lines if line and is_link(Path(line))]


def _linked(state: Path) -> set[Path]:
    """The generations that an environment points to."""
    return {path.resolve() for path in (state.parent / ".venv", *_environments(state))}


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What ``sweep`` removed, and what looks unfinished and was left because a process runs in it."""

    gone: tuple[Path, ...] = ()
    busy: tuple[Path, ...] = ()


def sweep(state: Path) -> Swept:
    """Remove what interrupted builds left; the project's lock must be held.

    Never what an environment points to, or what a process runs in: its marker may have been lost since.
    """
    for environment in (state.parent / ".venv", *_environments(state)):
        with suppress(OSError):
            _not_yet(environment).unlink()
    try:
        left = [path for path in folder(state).iterdir() if read(path) is None]
    except OSError:
        return Swept()
    linked = _linked(state) if left else set()
    loose = [path for path in left if path.resolve() not in linked]
    running = _running_in() if loose else set()
    busy = tuple(path for path in loose if _any_below(running, path.resolve()))
    gone = tuple(path for path in loose if path not in busy)
    for path in gone:
        remove_tree(path)
    return Swept(gone=gone, busy=busy)


def unfinished(state: Path) -> tuple[Path, ...]:
    """What an interrupted build left, or one that is running now makes: folders without marker."""
    try:
        left = [path for path in folder(state).iterdir() if read(path) is None]
    except OSError:
        return ()
    linked = _linked(state)
    return tuple(sorted(path for path in left if path.resolve() not in linked))


def prune(state: Path, *, keep: int, in_use: Path) -> tuple[Path, ...]:
    """Remove old generations.

    Never one that an environment points to, the ``keep`` newest, one younger than a week, or one a process runs in.
    """
    old = [g for g in finished(state)[keep:] if time.time() - float(g.manifest.get("created", 0)) > YOUNG_SECONDS]
    busy = _running_in() if old else set()
    used = _linked(state) | {in_use.resolve()}
    gone = [g.path for g in old if g.path.resolve() not in used and not _any_below(busy, g.path.resolve())]
    for path in gone:
        with suppress(OSError):
            (path / MARKER).unlink()  # first, so that a half-removed one never counts
        remove_tree(path)
    return tuple(gone)


def _any_below(paths: set[str], folder_: Path) -> bool:
    return any(path == str(folder_) or path.startswith(f"{folder_}{os.sep}") for path in paths)


def _running_in() -> set[str]:
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
    return found


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
        done = process.run([python_of(path), "-I", "-c", script], env=env) if says_home else None
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
