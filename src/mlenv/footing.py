"""What a lock's environment stands on: this machine's platform and a Python, both those that the lock is made for."""

from __future__ import annotations

from pathlib import Path

from mlenv import platforms
from mlenv.errors import ProjectError
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv


def interpreter(
    project: Project, uv: Uv, machine: Machine, *, asked: str | None = None, described: bool = False
) -> Path:
    """The Python that an environment of the project's lock is made with: the one that was ``asked`` for, else found.

    ``described``: the machine is another one than this, and to plan for it whatever runs here will do. Raises
    ProjectError where the lock is made for another platform or Python, or where there is none.
    """
    header = project.lock.header if project.lock else None
    assert header is not None
    name = project.settings.lock
    if machine.platform not in header.platforms:
        raise ProjectError(
            f"the lock is made for {', '.join(header.platforms)}, this machine is {machine.platform}",
            path=name,
            hint=platforms.adding(machine.platform, to=header.platforms),
        )
    python = asked or header.python
    _require_python(python, header.python, name)
    if described and _is_version(python):
        return uv_module.base_interpreter()
    path = uv_module.find_python(uv, python)
    _require_interpreter(uv, path, header.python, name, asked=asked)
    return path


def _is_version(python: str) -> bool:
    return all(part.isdigit() for part in python.split("."))


def _require_python(asked: str, locked: str, name: str) -> None:
    numbers = asked.split(".")
    if _is_version(asked) and numbers[:2] != locked.split(".")[: len(numbers[:2])]:
        raise _wrong_python(f"Python {asked}", locked, name, asked=".".join(numbers[:2]))


def _require_interpreter(uv: Uv, path: Path, locked: str, name: str, *, asked: str | None) -> None:
    """A path says nothing of its version: ask it."""
    if asked is None or _is_version(asked):
        return
    version = uv_module.python_version(uv, path)
    if version.split(".")[:2] != locked.split(".")[:2]:
        raise _wrong_python(f"{asked} is Python {version}", locked, name, asked=".".join(version.split(".")[:2]))


def _wrong_python(what: str, locked: str, name: str, *, asked: str) -> ProjectError:
    return ProjectError(
        f"the lock is made for Python {locked}; {what} was asked for",
        path=name,
        hint=f'make it for the other: [tool.mlenv] python = "{asked}", then `mlenv lock`',
    )
