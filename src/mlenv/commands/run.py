"""``mlenv run -- CMD``: run a command in the environment, which stays as long as the command runs."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from mlenv import selection
from mlenv.errors import CommandNotFoundError, CommandNotStartedError, FindingError, MlenvError
from mlenv.project import Project
from mlenv.selection import Environment
from mlenv.system import generation, in_use, process

_FORGOTTEN = ("PYTHONHOME", "__PYVENV_LAUNCHER__")


def run(project: Project, environment: Environment, command: Sequence[str]) -> int:
    """Run ``command`` and return its exit status.

    The link is resolved first, so that the running program never sees a flip. Raises FindingError where there is no
    environment or one that was built elsewhere, CommandNotFoundError or CommandNotStartedError as a shell tells them.
    """
    root = _root(project, environment)
    environ = project.environ
    env = {name: value for name, value in environ.items() if name not in _FORGOTTEN}
    env |= {
        "VIRTUAL_ENV": str(root),
        "PATH": os.pathsep.join([str(generation.scripts_of(root)), environ.get("PATH", os.defpath)]),
    }
    program = shutil.which(command[0], path=env["PATH"])
    own = generation.scripts_of(root) / command[0]
    if program is None or (own.is_file() and not os.access(own, os.X_OK)):  # never another program of that name
        raise _no_program(command[0], environment, env["PATH"])
    found = generation.read(root)
    try:
        with in_use.lease(project.state, root.name if found is None else found.id):
            return process.call([program, *command[1:]], env=env)
    except OSError as error:  # a script whose interpreter is gone, as after a move of the project
        raise CommandNotStartedError(
            f"{command[0]} can't be started: {error.strerror} (is what its first line names gone?)",
            hint=f"if it is one of {environment.shown}: `{shlex.join(['mlenv', 'check', *environment.words])}`",
        ) from error


def _no_program(name: str, environment: Environment, path: str) -> MlenvError:
    folders = [""] if os.path.dirname(name) else path.split(os.pathsep)  # noqa: PTH120 - "./x" has a folder, "x" none
    there = next((found for folder in folders if (found := Path(folder, name)).is_file()), None)
    if there is not None:
        return CommandNotStartedError(f"{there} is no program: it can't be executed", hint=f"`chmod +x {there}`?")
    return CommandNotFoundError(
        f"there is no command {name!r} in {environment.shown} or on PATH",
        hint="`mlenv run -- python -m NAME` runs a module",
    )


def _root(project: Project, environment: Environment) -> Path:
    """The folder of the environment; in a read-only project, of the one that this machine can use."""
    if not environment.asked and selection.read_only(project):
        return _finished(project, environment)
    root = environment.path.resolve()
    _require_usable(project, environment, root)
    return root


def _finished(project: Project, environment: Environment) -> Path:
    """The newest generation for this machine's backend, the environment's own before others."""
    machine, asked = selection.observe(project.environ), environment.backend
    backend = asked or selection.select(project, machine, backend=None, flag=None, force=True).backend
    current = generation.current(environment.path)
    known = generation.known(project.state, environment.path)
    fitting = [g for g in (*([current] if current else []), *known) if g.backend == backend and g.moved_from is None]
    usable = [g for g in fitting if (g.path / "pyvenv.cfg").is_file() and generation.python_of(g.path).exists()]
    if not usable:
        raise FindingError(
            f"no environment for {backend} is finished here, and the project is read-only",
            hint=selection.mending(project, environment.sync(backend=backend)),
        )
    return usable[0].path.resolve()


def _require_usable(project: Project, environment: Environment, root: Path) -> None:
    name, mend = environment.shown, selection.mending(project, environment.sync())
    if not generation.python_of(root).exists():
        raise selection.missing(project, environment)
    if not (root / "pyvenv.cfg").is_file():  # its Python would be the base interpreter
        raise FindingError(f"{name} is damaged: pyvenv.cfg is missing", hint=mend)
    found = generation.read(root)
    if found is None and environment.image:
        raise selection.missing(project, environment)
    if found is not None:
        selection.require_backend(project, environment, found.backend)
    if found is not None and found.moved_from is not None:  # the first line of its scripts names another Python
        told = f"{name} was built at {found.moved_from}; its scripts point there"
        mend = environment.sync(backend=found.backend, extras=found.extras)
        raise FindingError(told, hint=selection.mending(project, mend))
