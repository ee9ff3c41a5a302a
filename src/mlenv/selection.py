"""From the command line, the settings and the machine to one backend and one environment path."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv import platforms
from mlenv.errors import FindingError, NoBackendError, ProjectError, UsageError
from mlenv.location import PROJECT_FILE, is_project
from mlenv.project import Project
from mlenv.system import layer
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.backend import Choice, Request
    from mlenv.catalogue import Channel
    from mlenv.machine import Machine


def require_project(project: Project) -> None:
    """Raise ProjectError in a folder that holds nothing of a project."""
    if not project.overlays and not is_project(project.root):
        told = "there is no project here: neither requirements.in nor constraints/ nor [tool.mlenv]"
        raise ProjectError(told, path=str(project.root), hint="`mlenv init` starts one; elsewhere: --project DIR")


def in_ci(environ: Mapping[str, str]) -> bool:
    """Whether this is a CI run: CI is set, and not to a word for no."""
    return environ.get("CI", "").lower() not in ("", "0", "false", "no", "off")


def declared(project: Project) -> Mapping[str, str | None]:
    """backend → the torch its overlay pins: the nightly one's where that channel is asked for and there is one."""
    stable = {name: overlay.torch_version for name, overlay in project.overlays.items()}
    if project.channel == "stable":
        return stable
    found = {name: project.nightly_overlay(name) for name in stable}
    return stable | {name: overlay.torch_version for name, overlay in found.items() if overlay is not None}


def as_request(*, backend: str | None, flag: str | None) -> Request:
    """What ``--backend B``, ``--cuda13`` or ``--cpu`` ask for. Raises UsageError where they contradict."""
    from mlenv.backend import parse_request

    if backend is not None and flag is not None:
        raise UsageError(f"--backend {backend} and --{flag} both choose a backend", hint="give one of them")
    return parse_request(backend or flag)


def request(project: Project, *, backend: str | None, flag: str | None) -> Request:
    """What the command line asks for, else the setting, which is named. Raises UsageError where two contradict."""
    from mlenv.backend import parse_request

    if backend or flag or project.settings.backend is None:
        return as_request(backend=backend, flag=flag)
    said_by = project.settings.origins.get("backend", "[tool.mlenv] backend")
    return parse_request(project.settings.backend, said_by=said_by)


def unguessed(environ: Mapping[str, str], machine: Machine) -> bool:
    """Whether this is a CI run that sees no GPU: what it builds for can't be told from the machine."""
    return in_ci(environ) and not machine.visible_gpus


def observe(environ: Mapping[str, str]) -> Machine:
    """This machine, with what the installed plugins see of it."""
    from mlenv.system import probe
    from mlenv.system.entry_points import installed

    seen, plugins = probe.observe(environ), installed()
    if not plugins.usable:
        return seen
    from mlenv.plugins import with_facts

    return with_facts(seen, plugins, environ, root=Path("/"))


def select(
    project: Project,
    machine: Machine,
    *,
    backend: str | None,
    flag: str | None,
    force: bool,
    can_force: bool = False,
    channel: Channel = "stable",
    image: bool = False,
    described: bool = False,
) -> Choice:
    """The backend for this call: command line, then settings, then detection.

    ``can_force``: the command has --force, for hints. ``described``: the machine is not this one, so nothing of it is
    guessed. Raises UsageError where CI is set, or an ``image`` is built, and nothing says which; NoBackendError,
    ProjectError.
    """
    from mlenv.backend import Automatic, Named, choose

    asked = request(project, backend=backend, flag=flag)
    guess = (image and not machine.visible_gpus) or (unguessed(project.environ, machine) and not described)
    if isinstance(asked, Automatic) and guess:
        where = "an image is being built" if image else "CI is set"
        raise UsageError(
            f"{where} and no GPU is visible: a backend is not guessed here",
            hint="name one: --cpu, --cuda13, --backend B, or [tool.mlenv] backend",
        )
    if isinstance(asked, Named):
        project.require_chosen(asked.backend)
    return choose(
        catalogue=project.catalogue,
        machine=machine,
        declared=declared(project),
        request=asked,
        force=force,
        can_force=can_force,
        python=project.target_python[0],
        channel=channel,
    )


def own_backend(project: Project) -> str | None:
    """The backend that the project's own file sets: what a lock or a certificate says depends on nobody's machine."""
    said_here = project.settings.origins.get("backend", "").startswith(PROJECT_FILE)
    return project.settings.backend if said_here else None


def for_fleet(project: Project, machines: Mapping[str, Machine]) -> Mapping[str, str]:
    """The backend that each machine (by the file that describes it) gets: one that the lock is proven on.

    Raises ProjectError for a platform or a backend that the lock isn't made for, NoBackendError where nothing fits.
    """
    own = replace(project.settings, backend=own_backend(project))
    fleet = replace(project, environ={}, settings=own)  # what a laptop or a CI says of itself counts for nothing there
    return {path: _covered(fleet, path, machine) for path, machine in machines.items()}


def _covered(project: Project, path: str, machine: Machine) -> str:
    there = project.settings.platforms
    if machine.platform not in there:
        message = f"is {machine.platform}, and the lock is made for {', '.join(there)}"
        raise ProjectError(message, path=path, hint=platforms.adding(machine.platform, to=there))
    try:
        backend = select(project, machine, backend=None, flag=None, force=False).backend
    except NoBackendError as error:
        raise NoBackendError(error.message, path=path, hint=error.hint) from error
    if backend in project.settings.unproven:
        message = f"gets {backend}, which [tool.mlenv] unproven leaves out of the proof"
        raise ProjectError(message, path=path, hint=f"take {backend} out of unproven, then `mlenv lock`")
    return backend


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the environment is; ``shown`` is what messages call it. ``asked`` where it was named with ``--env``.

    ``channel`` is the one that its foundation is to come from. ``image`` where it was built for one, and stays there.
    ``backend`` is what it is looked at for, where that was asked for or decides where it is.
    """

    path: Path
    shown: str
    asked: bool = False
    channel: Channel = "stable"
    image: bool = False
    backend: str | None = None

    @property
    def words(self) -> list[str]:
        """The words of a command line that name it."""
        words = ["--backend", self.backend] if self.backend else []
        return [*words, "--env", self.shown] if self.asked else words

    def sync(
        self,
        *,
        backend: str | None = None,
        python: str | None = None,
        extras: Iterable[str] = (),
        groups: Iterable[str] = (),
        rebuild: bool = False,
        only: str | None = None,
    ) -> str:
        """The command that makes it be what it should be, for hints: in backticks, quoted for a shell."""
        words = ["mlenv", "sync", *(["--image"] if self.image else []), *(["--only", only] if only else [])]
        backend = backend or self.backend
        words += [*(["--backend", backend] if backend else []), *(["--rebuild"] if rebuild else [])]
        words += ["--nightly"] if self.channel == "nightly" else []
        words += ["--python", python] if python else []
        words += [word for extra in extras for word in ("--with", extra)]
        words += [word for group in groups for word in ("--group", group)]
        words += ["--env", self.shown] if self.asked else []
        return f"`{shlex.join(words)}`"


def environment(project: Project, backend: str | None, *, asked: Path | None) -> Environment:
    """The environment at ``environment_path``, called as the user calls it. Raises UsageError."""
    path = environment_path(project, backend, asked=asked)
    if asked is not None:
        image = layer.marked(path)
        return Environment(path=path, shown=str(asked), asked=True, channel=project.channel, image=image)
    inside = path.is_relative_to(project.root)
    shown = path.relative_to(project.root).as_posix() if inside else str(path)
    return Environment(path=path, shown=shown, channel=project.channel)


def standing(project: Project, *, backend: str | None, flag: str | None, asked: Path | None) -> Environment:
    """The environment that a command looks at or runs in: for the backend asked for, where one is.

    Raises UsageError, ProjectError.
    """
    decides = "{backend}" in project.settings.environment and asked is None
    if not (backend or flag or decides):
        return environment(project, None, asked=asked)
    chosen = select(project, observe(project.environ), backend=backend, flag=flag, force=True).backend
    return replace(environment(project, chosen, asked=asked), backend=chosen)


def missing(project: Project, environment: Environment) -> FindingError:
    """What is said where no environment of mlenv's stands; the hint names those that do."""
    from mlenv.system import generation, history

    places = [path for path in history.environments(project.state) if path != environment.path]
    found = {path: current for path in places if (current := generation.current(path)) is not None}
    told = ", ".join(f"`--env {shlex.quote(os.path.relpath(path))}` ({found[path].backend})" for path in found)
    hint = mending(project, environment.sync())
    message = f"{environment.shown} {generation.unusable(environment.path)}"
    return FindingError(message, hint=f"{hint}; there is {told}" if told else hint)


def require_backend(project: Project, environment: Environment, found: str) -> None:
    """Raise FindingError where the environment is of another backend than the one asked for."""
    if environment.backend is not None and found != environment.backend:
        told = f"{environment.shown} is of {found}, not of {environment.backend}"
        raise FindingError(told, hint=mending(project, environment.sync()))


def read_only(project: Project) -> bool:
    """Whether nothing can be written to the project here."""
    return not os.access(project.state if project.state.exists() else project.root, os.W_OK)


def mending(project: Project, command: str) -> str:
    """The hint to run ``command``, which writes to the project; where that can't be done, what can."""
    if not read_only(project) or "--image" in command:  # which writes elsewhere
        return f"run {command}"
    elsewhere = "`mlenv sync --image --env PATH` builds one elsewhere"
    return f"the project is read-only here: where it can be written, run {command}; here {elsewhere}"


def environment_path(project: Project, backend: str | None, *, asked: Path | None) -> Path:
    """Where the environment is: ``--env``, else the setting with {backend}, {host} and {user} put in.

    Where no backend is given and the setting wants one, it is the setting's, else the one this machine gets.
    Raises UsageError for a folder that holds the project, is mlenv's own or lies in another environment.
    """
    if asked is not None:
        return _not_the_project(project, Path(os.path.normpath(asked.absolute())), said_by="--env")
    name = project.settings.environment
    if "{" in name:
        import getpass
        import socket

        values = {
            "backend": backend or (_detected(project) if "{backend}" in name else ""),
            "host": socket.gethostname(),
            "user": getpass.getuser(),
        }
        name = re.sub(r"\{(backend|host|user)\}", lambda match: values[match[1]], name)
    path = Path(os.path.normpath((project.root / name).absolute()))
    return _not_the_project(project, path, said_by="[tool.mlenv] environment")


def _detected(project: Project) -> str:
    """The backend of the settings, else the one this machine gets, as ``sync`` chooses it."""
    return select(project, observe(project.environ), backend=None, flag=None, force=True).backend


def _not_the_project(project: Project, path: Path, *, said_by: str) -> Path:
    """What stands at an environment's path is moved aside: that must never be the project itself."""
    inside = next((folder for folder in path.parents if _is_environment(project, folder)), None)
    if project.root.is_relative_to(path) or path.is_relative_to(project.state) or inside is not None:
        told = f", as {inside} is one" if inside else ""
        raise UsageError(
            f"{said_by}: {path} can't be an environment{told}", hint="name a folder of its own, such as .venv"
        )
    marks = _MARKS if path.is_relative_to(project.root) else _MARKS[:1]  # /usr has a bin/python, too
    if path.name != ".venv" and _is_something_else(path, marks):
        raise UsageError(f"{said_by}: {path} is there and is no environment", hint="name a path that is free")
    return path


def _is_environment(project: Project, folder: Path) -> bool:
    """Whether a folder, unless the project itself lies in it, is an environment: one inside would go with it."""
    return not project.root.is_relative_to(folder) and any(os.path.lexists(folder / mark) for mark in _MARKS[:2])


_MARKS = ("pyvenv.cfg", "conda-meta", "bin/python", "Scripts/python.exe")
"""What a virtual environment has."""


def _is_something_else(path: Path, marks: Iterable[str]) -> bool:
    """Whether a file or a filled folder stands there that is neither a link nor a virtual environment."""
    if path.is_symlink() or not path.exists() or any(os.path.lexists(path / mark) for mark in marks):
        return False
    return not path.is_dir() or any(path.iterdir())


def checked_extras(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The ``--with`` requirements, each parsed. Raises UsageError."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in texts:
        try:
            parsed = Requirement(text)
        except InvalidRequirement as error:
            raise UsageError(
                f"--with {text!r} is not a requirement", hint="for example: --with 'ipdb>=0.13'"
            ) from error
        if parsed.url is not None:
            raise UsageError(f"--with {parsed.name}: a URL can't be checked against an index", hint="name a release")
    return texts
