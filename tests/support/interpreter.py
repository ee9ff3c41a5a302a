"""Interpreters for tests: one to throw away, and what a run of mlenv in this one returns.

Without ``pyvenv.cfg`` an environment's ``python`` *is* its base interpreter, and uv then changes that (FACTS,
reliability 4): a test that damages an environment builds it on a private base.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# What belongs to the original: its packages, and the mark that keeps installers out of it.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "EXTERNALLY-MANAGED"})

ProjectFactory = Callable[[Mapping[str, str]], Path]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a program ended: its exit status and what it wrote."""

    code: int
    out: str
    err: str


class RunProgram(Protocol):
    """What the fixtures ``run_mlenv`` and ``run_uv`` are; a variable that is None in ``env`` is taken away."""

    def __call__(self, *args: str | Path, cwd: Path, env: Mapping[str, str | None] | None = None) -> Finished: ...


def base_interpreter() -> Path:
    """The interpreter below any virtual environment that the tests run in, without links."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def throwaway_python(target: Path) -> Path:
    """A base interpreter whose prefix, packages and scripts are inside ``target``, made there in some 10 ms.

    The standard library is a folder of links, so only in-place edits of its files would reach the original; nothing
    that installs or removes packages makes any. Raises RuntimeError where the copy is not private.
    """
    base = base_interpreter()
    python = target / "bin" / base.name
    python.parent.mkdir(parents=True)
    shutil.copy2(base, python)
    for name in ("python", "python3"):
        if name != base.name:
            (python.parent / name).symlink_to(base.name)
    for source, link in _links(target):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    for library in _libraries(Path(sys.base_prefix), target).values():
        (library / "site-packages").mkdir(exist_ok=True)
    _require_private(python, target.resolve())
    return python


def _links(target: Path) -> Iterator[tuple[Path, Path]]:
    """(original, link) for each entry of the standard library and for libpython beside it."""
    prefix = Path(sys.base_prefix)
    for original, copy in _libraries(prefix, target).items():
        yield from ((entry, copy / entry.name) for entry in original.iterdir() if entry.name not in _LEFT_OUT)
    yield from ((entry, target / "lib" / entry.name) for entry in (prefix / "lib").glob("libpython3*"))


def _libraries(prefix: Path, target: Path) -> dict[Path, Path]:
    folders = {Path(sysconfig.get_path(name, vars=_base_variables())) for name in ("stdlib", "platstdlib")}
    return {folder: target / folder.relative_to(prefix) for folder in folders}


def _base_variables() -> dict[str, str]:
    return dict.fromkeys(("base", "platbase", "installed_base", "installed_platbase"), sys.base_prefix)


def _require_private(python: Path, target: Path) -> None:
    script = "import json, ssl, sys, sysconfig; print(json.dumps([sys.base_prefix, sysconfig.get_path('purelib')]))"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=False)
    places = json.loads(done.stdout) if done.returncode == 0 else [done.stderr.strip()]
    if not all(Path(os.path.realpath(place)).is_relative_to(target) for place in places):
        raise RuntimeError(f"no private interpreter can be made of {base_interpreter()}: {places}")
