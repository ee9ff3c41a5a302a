"""``mlenv init``: write what a project lacks, overwrite nothing."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlenv.catalogue import Catalogue, Channel, Release
from mlenv.errors import ProjectError, UsageError
from mlenv.location import CONSTRAINTS, looks_compiled
from mlenv.overlay import HEAD
from mlenv.project import Project, read_text
from mlenv.report import Finding, Outcome
from mlenv.requirements import split_index_lines
from mlenv.system.files import write_atomically
from mlenv.values import dataclass

DEFAULT_BACKENDS = ("cpu", "cu126", "cu130", "cu132")
HOOK = """\
repos:
  - repo: local
    hooks:
      - id: mlenv-lock-check
        name: the lock is current
        entry: mlenv lock --check
        language: system
        always_run: true
        pass_filenames: false
"""


# What is worth saying of a file that a tool compiled: where its packages came from.
_OF_A_LOCK = frozenset({"refused-index", "refused-find-links", "refused-vcs", "refused-credentials"})


@dataclass(frozen=True, kw_only=True)
class _Write:
    """One file that ``init`` writes or adds to."""

    path: str
    text: str
    what: str


def init(
    root: Path, *, backends: tuple[str, ...], channels: tuple[Channel, ...] = ("stable",), python: str | None
) -> Outcome:
    """Write overlays, indexes, settings, a starting requirements.in and ignore lines where they are missing.

    Raises ProjectError where a file that is there can't be read, UsageError for a backend without a known release.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder")
    project = _project(root)
    catalogue = project.catalogue
    target = python or project.target_python[0]
    chosen = backends or _default_backends(root)
    writes = [
        *(() if project.workspace.members else _requirements(root)),
        *_overlays(root, catalogue, chosen, python=target),
        *_indexes(root, catalogue, chosen, channels),
        *_settings(root, python=python),
        *_ignores(root, _ignored(project)),
    ]
    for write in writes:
        write_atomically(root / write.path, write.text, shown=write.path)
    findings = tuple(_lines_to_replace(root))
    lines = [f"{write.what} {write.path}" for write in writes] or ["everything is there already; nothing was written"]
    if python is not None and "pyproject.toml" not in {write.path for write in writes}:
        lines.append(f'pyproject.toml has a [tool.mlenv] already; write python = "{python}" into it yourself')
    lines += ["", "next: `mlenv lock`, then `mlenv sync`"]
    if not (root / ".pre-commit-config.yaml").exists():
        lines += ["", "for a pre-commit hook, put this into .pre-commit-config.yaml:", "", HOOK.rstrip()]
    data = {"written": [write.path for write in writes], "python": target, "backends": list(chosen), "hook": HOOK}
    return Outcome(text="\n".join(lines), data=data, findings=findings)


def in_member(folder: str, root: Path, *, backends: Iterable[str], nightly: bool, python: str | None) -> UsageError:
    """What is said in a member of the workspace at ``root``: what ``init`` writes is the whole workspace's."""
    words = ["--project", os.path.relpath(root), "init"]
    words += [word for backend in backends for word in ("--backend", backend)]
    words += [*(["--nightly"] if nightly else []), *(["--python", python] if python else [])]
    message = f"{folder} is a member's folder in the workspace at {root}; overlays and indexes are the workspace's"
    hint = f"`mlenv {shlex.join(words)}` adds what is missing there; a member needs a requirements.in and no more"
    return UsageError(f"{message}, nothing was written", hint=hint)


def _default_backends(root: Path) -> tuple[str, ...]:
    """The usual backends; where overlays are there already, only those (their indexes may be missing)."""
    there = tuple(sorted(path.stem for path in (root / CONSTRAINTS).glob("*.txt")))
    return there or DEFAULT_BACKENDS


def _project(root: Path) -> Project:
    from mlenv.settings import load

    settings, _ = load(root, environ={})
    return Project(root=root, settings=settings, environ={})


def _requirements(root: Path) -> Iterable[_Write]:
    if (root / "requirements.in").exists() or _handwritten(root):
        return
    if _has_dependencies(root) and not _is_package(root):
        return
    text = "# What this application needs, one requirement a line. `mlenv lock` pins it in requirements.txt.\n"
    text += "# torch and the like are not pinned here: constraints/ has them, one overlay a backend.\n"
    if _is_package(root):
        text += "# This project's own package: its dependencies are locked, `mlenv sync` installs it.\n-e .\n"
    yield _Write(path="requirements.in", text=text, what="wrote")


def _overlays(root: Path, catalogue: Catalogue, backends: Iterable[str], *, python: str) -> Iterable[_Write]:
    for backend in backends:
        path = f"{CONSTRAINTS}/{backend}.txt"
        if (root / path).exists():
            continue
        release = catalogue.newest_release(backend, python=python)
        if release is None:
            raise _no_release(catalogue, backend, python=python)
        yield _Write(path=path, text=_overlay(backend, release, catalogue), what="wrote")


def _no_release(catalogue: Catalogue, backend: str, *, python: str) -> UsageError:
    pythons = catalogue.pythons(backend)
    if pythons:
        return UsageError(
            f"no torch of {backend} has wheels for Python {python}; there are for {', '.join(pythons)}",
            hint=f"make the project for one of these: `mlenv init --backend {backend} --python {pythons[-1]}`",
        )
    known = ", ".join(sorted(catalogue.backends))
    return UsageError(
        f"no torch release of backend {backend} is in the catalogue (backends: {known})",
        hint=f"write {CONSTRAINTS}/{backend}.txt yourself: torch==VERSION, and an index pytorch-{backend} in uv.toml",
    )


def _overlay(backend: str, release: Release, catalogue: Catalogue) -> str:
    lines = [f"{HEAD}{backend}: what `mlenv sync --backend {backend}` installs beside the lock."]
    lines += [f"torch=={release.torch}", f"torchvision=={release.torchvision}"]
    built_with = catalogue.release(release.torchaudio)  # torchaudio is numbered like the torch it was built with
    if built_with is None or backend in built_with.backends:
        lines.append(f"torchaudio=={release.torchaudio}")
    else:
        lines.append(f"# torchaudio: its newest release, {release.torchaudio}, has no {backend} build")
    return "\n".join(lines) + "\n"


def _indexes(
    root: Path, catalogue: Catalogue, backends: Iterable[str], channels: Iterable[Channel]
) -> Iterable[_Write]:
    old = read_text(root / "uv.toml", shown="uv.toml")
    named = {index.get("name") for index in _toml(old or "", "uv.toml").get("index", [])}
    wanted = {
        (_index_name(b, channel), catalogue.index_url(b, channel=channel)) for b in backends for channel in channels
    }
    blocks = [_index(name, url) for name, url in sorted(wanted) if name not in named]
    if not blocks:
        return
    head = "# uv's own settings and the indexes that mlenv takes the torch family from. An explicit index serves only\n"
    head += "# the names that are bound to it, so that nothing in it can shadow a package of the default index.\n\n"
    before = head if old is None else old.rstrip("\n") + "\n\n"
    text = _still_toml(before + "\n".join(blocks), "uv.toml", added="[[index]] tables")
    yield _Write(path="uv.toml", text=text, what="wrote" if old is None else "added indexes to")


def _index_name(backend: str, channel: Channel) -> str:
    return f"pytorch-{backend}" if channel == "stable" else f"pytorch-nightly-{backend}"


def _index(name: str, url: str) -> str:
    return f'[[index]]\nname = "{name}"\nurl = "{url}"\nexplicit = true\n'


def _settings(root: Path, *, python: str | None) -> Iterable[_Write]:
    old = read_text(root / "pyproject.toml", shown="pyproject.toml")
    table = _toml(old or "", "pyproject.toml").get("tool", {}).get("mlenv")
    if table is not None:
        return
    lines = ["[tool.mlenv]"]
    if python is not None:
        lines.append(f'python = "{python}"')
    if not (root / "requirements.in").exists() and _has_dependencies(root) and not _is_package(root):
        lines.append('requirements = ["pyproject.toml"]')
    before = "" if old is None else old.rstrip("\n") + "\n\n"
    text = _still_toml(before + "\n".join(lines) + "\n", "pyproject.toml", added="the table [tool.mlenv]")
    yield _Write(path="pyproject.toml", text=text, what="wrote" if old is None else "added [tool.mlenv] to")


def _has_dependencies(root: Path) -> bool:
    text = read_text(root / "pyproject.toml", shown="pyproject.toml")
    return "dependencies" in _toml(text or "", "pyproject.toml").get("project", {})


def _is_package(root: Path) -> bool:
    """Whether the project itself can be installed: it says how it is built."""
    text = read_text(root / "pyproject.toml", shown="pyproject.toml")
    return {"build-system", "project"} <= _toml(text or "", "pyproject.toml").keys()


def _ignored(project: Project) -> tuple[str, ...]:
    """The lines that keep environments out of commits and images: what was there before, and mlenv's folder, too.

    In a workspace every member has its own.
    """
    place = posixpath.normpath(re.sub(r"\{[^}]*\}", "*", project.settings.environment))
    inside = not place.startswith(("/", "..")) and ":" not in place
    own = (place, f"{place}.before-mlenv*") if inside else ()
    below = "**/" if project.workspace.members else "/"
    return tuple(f"{below}{line}" for line in (*(own[:1] if place.endswith("*") else own), ".mlenv"))


def _ignores(root: Path, ignored: Iterable[str]) -> Iterable[_Write]:
    for name in (".gitignore", ".dockerignore"):
        old = read_text(root / name, shown=name) or ""
        have = {line.strip().lstrip("/") for line in old.splitlines()}  # ".venv/" is no link's line
        missing = [line for line in ignored if line.lstrip("/") not in have]
        if missing:
            before = old if not old or old.endswith("\n") else old + "\n"
            what = "added to" if old else "wrote"
            yield _Write(path=name, text=before + "".join(f"{line}\n" for line in missing), what=what)


def _lines_to_replace(root: Path) -> Iterable[Finding]:
    """Lines of an existing project that mlenv does not take over, each with its replacement."""
    if not (root / "requirements.in").exists() and not _has_dependencies(root) and _handwritten(root):
        yield Finding(
            kind="requirements-by-hand",
            message="is written by hand, and `mlenv lock` writes a file of that name",
            hint="git mv requirements.txt requirements.in",
            path="requirements.txt",
            severity="warning",
        )
    for path in sorted(
        {*root.glob("requirements*.in"), *root.glob("requirements/*.in"), *root.glob("requirements*.txt")}
    ):
        name = path.relative_to(root).as_posix()
        text = read_text(path, shown=name) or ""
        for finding in split_index_lines(text):
            if looks_compiled(text) and finding.kind not in _OF_A_LOCK:
                continue  # hashes and the like are in their place there
            yield Finding(
                kind=finding.kind,
                message=finding.message,
                hint=finding.hint,
                path=name,
                line=finding.line,
                severity="warning",
            )


def _still_toml(text: str, name: str, *, added: str) -> str:
    """``text``, which must still parse: nothing can follow a table that is written inline."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(
            f"{added} can't be added to what is written inline",
            path=name,
            hint="write it as tables of its own; nothing was written",
        ) from error
    return text


def _handwritten(root: Path) -> bool:
    """Whether there is a requirements.txt that no tool compiled: an input, which `mlenv lock` would write over."""
    text = read_text(root / "requirements.txt", shown="requirements.txt") or ""
    return bool(text.strip()) and not looks_compiled(text)


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"is not TOML: {error}", path=name, hint="mend it; nothing was written") from error
