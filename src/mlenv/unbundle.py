"""From a bundle to the plan of one environment: what is read there is checked before anything is built of it."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from mlenv import bundle as bundle_module
from mlenv import planning
from mlenv.bundle import Bundle, File, Part
from mlenv.errors import IntegrityError, ProjectError, UsageError
from mlenv.plan import Plan
from mlenv.project import Project
from mlenv.system.download import sha256_of
from mlenv.textfile import read_text
from mlenv.values import dataclass

_COPY_AGAIN = "copy the bundle again: `mlenv bundle` on the machine that made it mends it there"
STATE = ".mlenv"
"""What only the maker of a bundle needs there."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The part of a bundle that serves one environment."""

    folder: Path
    shown: str
    bundle: Bundle
    part: Part


def open_bundle(
    project: Project,
    path: Path,
    *,
    backend: str,
    platform: str,
    inputs: Mapping[str, str],
    names: Mapping[str, str],
) -> Opened:
    """The part of the bundle at ``path`` for a target, made from what the project is now.

    ``inputs`` are the project's, by digest, ``names`` what they are called. Raises UsageError, ProjectError,
    FindingError where the project is another than the bundle's, IntegrityError where the bundle is damaged.
    """
    bundle, shown = read(path), str(path)
    assert project.lock is not None
    assert project.lock.header is not None
    python = project.lock.header.python
    part = bundle.part(backend, platform=platform, python=python, channel=project.channel, shown=shown)
    bundle_module.require_same(part, inputs, names=names, shown=shown)
    return Opened(folder=path.resolve(), shown=shown, bundle=bundle, part=part)


def read(path: Path) -> Bundle:
    """The manifest of the bundle at ``path``. Raises UsageError where there is none, and as ``bundle.parse``."""
    text = read_text(path / bundle_module.MANIFEST, shown=str(path / bundle_module.MANIFEST))
    if text is None:
        raise UsageError(
            f"{path} is no bundle: there is no {bundle_module.MANIFEST}",
            hint="`mlenv bundle` makes one, and writes that file last",
        )
    return bundle_module.parse(text, shown=str(path))


def plan_for(project: Project, opened: Opened) -> Plan:
    """The plan of the environment; each file of it is there, as long as it should be, and one that the lock lists.

    Whether its bytes are the right ones is found out where they are read anyway: when it is installed.
    Raises IntegrityError.
    """
    listed = _listed(opened, opened.part.plan)
    data = _bytes(opened, listed)
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise _damaged(opened, listed.path, "its bytes differ from its hash")
    try:
        chosen = bundle_module.plan_of(data.decode(), opened.part, opened.folder)
    except (ValueError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise _damaged(opened, listed.path, f"it is no plan: {error}") from error
    built = {canonicalize_name(name) for name in project.settings.build}
    platform = opened.part.platform
    bundle_module.require_locked(chosen, planning.pins_on(project, platform), built=built, shown=opened.shown)
    record = project.record(opened.part.backend)
    chosen = chosen if record is None else planning.held_to_record(chosen, record, platform)
    for file in _files(opened, chosen):
        _require_size(opened, file)
    return chosen


def require_whole(opened: Opened, chosen: Plan) -> None:
    """Raise IntegrityError that names a file of the plan whose bytes are not the right ones, if there is one."""
    for file in _files(opened, chosen):
        _require_size(opened, file)
        if sha256_of(opened.folder / file.path) != file.sha256:
            raise _damaged(opened, file.path, "its bytes differ from its hash")


def _files(opened: Opened, chosen: Plan) -> list[File]:
    tables = [package.table for package in chosen.packages]
    urls = [file["url"] for table in tables for file in table.get("wheels") or [table["archive"]]]
    paths = [Path(unquote(urlsplit(url).path)).relative_to(opened.folder).as_posix() for url in urls]
    return [_listed(opened, path) for path in paths]


def _listed(opened: Opened, path: str) -> File:
    if path not in opened.bundle.by_path:
        raise _damaged(opened, path, f"{bundle_module.MANIFEST} does not list it")
    return opened.bundle.by_path[path]


def _require_size(opened: Opened, file: File) -> None:
    try:
        size = (opened.folder / file.path).stat().st_size
    except OSError as error:
        raise _damaged(opened, file.path, error.strerror or "it can't be read") from error
    if size != file.size:
        raise _damaged(opened, file.path, f"it has {size} bytes instead of {file.size}")


def _bytes(opened: Opened, file: File) -> bytes:
    try:
        return (opened.folder / file.path).read_bytes()
    except OSError as error:
        raise _damaged(opened, file.path, error.strerror or "it can't be read") from error


def _damaged(opened: Opened, path: str, why: str) -> IntegrityError:
    return IntegrityError(f"the bundle is damaged: {why}", path=str(opened.folder / path), hint=_COPY_AGAIN)


def require_free(folder: Path, *, shown: str) -> None:
    """Raise UsageError where ``folder`` holds something that is no bundle, begun or finished."""
    own = {
        bundle_module.MANIFEST, bundle_module.WHEELS, bundle_module.BUILD, bundle_module.TOOL, bundle_module.PLANS,
        bundle_module.PROJECT, bundle_module.README, ".gitignore", STATE,
    }  # fmt: skip
    try:
        strange = sorted({path.name for path in folder.iterdir()} - own)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        strange = [folder.name]
    except OSError as error:
        raise ProjectError(f"can't be read: {error.strerror}", path=shown, hint="check its permissions") from error
    if strange:
        raise UsageError(f"-o {shown}: there is something else ({strange[0]})", hint="name a folder of its own")
