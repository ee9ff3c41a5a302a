"""``mlenv run -- CMD``: run a command in the environment, which stays as long as the command runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mlenv.errors import FindingError, UsageError
from mlenv.project import Project
from mlenv.selection import Environment
from mlenv.system import generation, in_use, process

_FORGOTTEN = ("PYTHONHOME", "__PYVENV_LAUNCHER__")


def run(project: Project, environment: Environment, command: Sequence[str]) -> int:
    """Run ``command`` and return its exit status.

    The link is resolved first, so that the running program never sees a flip. Raises FindingError where there is no
    environment or one that was built elsewhere, UsageError where there is no such command.
    """
    root = _root(project, environment)
    environ = project.environ
    env = {name: value for name, value in environ.items() if name not in _FORGOTTEN}
    env |= {
        "VIRTUAL_ENV": str(root),
        "PATH": os.pathsep.join([str(generation.scripts_of(root)), environ.get("PATH", os.defpath)]),
    }
    program = shutil.which(command[0], path=env["PATH"])
    if program is None:
        raise UsageError(
            f"there is no command {command[0]!r} in {environment.shown} or on PATH",
            hint="`mlenv run -- python -m NAME` runs a module",
        )
    found = generation.read(root)
    try:
        with in_use.lease(project.state, root.name if found is None else found.id):
            return process.call([program, *command[1:]], env=env)
    except OSError as error:  # a script whose interpreter is gone, as after a move of the project
        raise FindingError(
            f"{command[0]} can't be started: {error.strerror} (was the project moved?)",
            hint=f"run {environment.sync()}",
        ) from error


def _root(project: Project, environment: Environment) -> Path:
    """The folder of the environment; in a read-only project, of the one that this machine can use."""
    if not environment.asked and not os.access(project.state if project.state.exists() else project.root, os.W_OK):
        return _finished(project, environment)
    root = environment.path.resolve()
    _require_usable(environment, root)
    return root


def _finished(project: Project, environment: Environment) -> Path:
    """The newest generation for this machine's backend, the environment's own before others."""
    from mlenv.selection import observe, select

    backend = select(project, observe(project.environ), backend=None, flag=None, force=True).backend
    current = generation.current(environment.path)
    known = generation.known(project.state, environment.path)
    fitting = [g for g in (*([current] if current else []), *known) if g.backend == backend and g.moved_from is None]
    usable = [g for g in fitting if (g.path / "pyvenv.cfg").is_file() and generation.python_of(g.path).exists()]
    if not usable:
        raise FindingError(
            f"no environment for {backend} is finished here, and the project is read-only",
            hint=f"where it can be written: {environment.sync(backend=backend)}",
        )
    return usable[0].path.resolve()


def _require_usable(environment: Environment, root: Path) -> None:
    name, mend = environment.shown, f"run {environment.sync()}"
    if not generation.python_of(root).exists():
        raise FindingError(f"{name} {generation.unusable(environment.path)}", hint=f"{mend} first")
    if not (root / "pyvenv.cfg").is_file():  # its Python would be the base interpreter
        raise FindingError(f"{name} is damaged: pyvenv.cfg is missing", hint=mend)
    found = generation.read(root)
    if found is None and environment.image:
        raise FindingError(f"{name} {generation.unusable(environment.path)}", hint=f"{mend} first")
    if found is not None and found.moved_from is not None:  # the first line of its scripts names another Python
        told = f"{name} was built at {found.moved_from}; its scripts point there"
        raise FindingError(told, hint=f"run {environment.sync(extras=found.extras)}")
