"""What stands and what is wanted: everything that ``sync`` knows before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv import footing, inspection
from mlenv.machine import Machine
from mlenv.project import Project
from mlenv.report import Finding
from mlenv.selection import Environment
from mlenv.system import flip, generation
from mlenv.system.generation import Generation
from mlenv.system.uv import Uv
from mlenv.values import dataclass
from mlenv.wanted import Verify, Wanted, inputs_of, key_of, shared_inputs_of

if TYPE_CHECKING:
    from mlenv.unbundle import Opened

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of ``sync``. ``reasons`` say why ``backend`` was chosen.

    ``described``: the machine is another one than this, so what stands here counts for nothing. ``keep``: how many
    generations stay, where that was asked for. ``bundle`` is the folder that everything comes from. ``groups`` are
    development lists that are installed with the lock.
    """

    backend: str
    reasons: tuple[str, ...]
    environment: Environment
    python: str | None = None
    extras: tuple[str, ...] = ()
    verify: Verify = Verify.AUTO
    rebuild: bool = False
    locked: bool = False
    described: bool = False
    wait: float = 600.0
    keep: int | None = None
    bundle: Path | None = None
    groups: tuple[str, ...] = ()

    def again(self, *, rebuild: bool = False) -> str:
        """The command that asks the same, for hints."""
        return self.environment.sync(
            backend=self.backend, python=self.python, extras=self.extras, groups=self.groups, rebuild=rebuild
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything known before anything is built."""

    project: Project
    uv: Uv
    machine: Machine
    request: Request
    wanted: Wanted
    inputs: Mapping[str, str]
    current: Generation | None
    candidates: tuple[Generation, ...]
    opened: Opened | None = None


def look(project: Project, uv: Uv, machine: Machine, request: Request) -> State:
    """Read what stands. Raises ProjectError where there is no interpreter, and what opening a bundle raises."""
    wanted = Wanted(
        backend=request.backend,
        interpreter=footing.interpreter(project, uv, machine, asked=request.python, described=request.described),
        extras=request.extras,
        verify=request.verify,
        layout=project.settings.layout,
        bundle=None if request.bundle is None else request.bundle.resolve(),
    )
    inputs = inputs_of(project, wanted, platform=machine.platform)
    key = key_of(inputs)
    known = generation.known(project.state, request.environment.path)
    return State(
        project=project,
        uv=uv,
        machine=machine,
        request=request,
        wanted=wanted,
        inputs=inputs,
        current=generation.current(request.environment.path),
        candidates=tuple(g for g in known if g.key == key and _trusted(g, request)),
        opened=_opened(project, machine, request),
    )


def sweep(project: Project, *, progress: Progress) -> None:
    """Remove what interrupted builds left, and say so; the project's lock must be held."""
    flip.tidy(project.state)
    swept = generation.sweep(project.state)
    for path in swept.gone:
        progress(f"removed what an interrupted build left: {path.name}")
    for path in swept.busy:
        progress(f"left {path.name}, which has no sound {generation.MARKER}, as a process runs in it")


def unswept(project: Project) -> bool:
    """Whether an interrupted build or flip left something, or another mlenv is at work here; writes nothing."""
    return flip.interrupted(project.state) or bool(generation.unfinished(project.state))


def is_current(state: State, found: Generation) -> bool:
    """Whether a generation is what the environment is now."""
    return state.current is not None and found.path == state.current.path


def of_these_inputs(state: State, found: Generation) -> bool:
    """Whether a generation was built from what is wanted now."""
    return found.key == key_of(state.inputs)


def untouched(state: State) -> bool:
    """Whether the environment is what is wanted, and nobody changed it since."""
    return any(is_current(state, found) and not inspection.changed_since(found) for found in state.candidates)


def reusable(state: State, *, progress: Progress) -> Generation | None:
    """A finished generation with the same inputs that nobody changed since; the current one first."""
    order = sorted(state.candidates, key=lambda found: not is_current(state, found))
    for position, candidate in enumerate(order):
        if is_current(state, candidate):
            changed = inspection.changed_since(candidate)
        else:
            changed = inspection.altered(state.project, candidate, state.machine)
        if not changed:
            return candidate
        if position == 0:
            what = "was built elsewhere" if candidate.moved_from is not None else "was changed behind mlenv's back"
            progress(f"the environment {what} and is replaced:")
            for line in changed[:8]:
                progress(f"  {line}")
    return None


def differences(state: State) -> tuple[Finding, ...]:
    """Why the environment is not what ``sync`` would make of it; empty where it is."""
    request, current = state.request, state.current
    hint, name = f"run {request.again()}", request.environment.shown
    if current is None:
        what = generation.unusable(request.environment.path)
        return (Finding(kind="environment-missing", message=f"{name} {what}", hint=hint),)
    if not of_these_inputs(state, current):
        message = f"{name} was built from other inputs{_told_apart(current, state)}"
        if current.backend != request.backend:
            message += f"; {request.backend} is what it should be: {'; '.join(request.reasons)}"
            hint += f", or check what is there: `mlenv sync --check --backend {current.backend}`"
        return (Finding(kind="environment-stale", message=message, hint=hint),)
    changed = inspection.changed_since(current)
    return tuple(Finding(kind="environment-drifted", message=f"{name}: {line}", hint=hint) for line in changed)


def called(project: Project, request: Request) -> dict[str, str]:
    """What an input is called in a message, where it is a file."""
    return {
        "overlay": project.overlay(request.backend).path,
        "lock": project.settings.lock,
        "record": project.record_path(request.backend),
    }


def _opened(project: Project, machine: Machine, request: Request) -> Opened | None:
    """The bundle's part for this environment, where one is asked for. Raises as ``unbundle.open_bundle``."""
    if request.bundle is None:
        return None
    from mlenv import unbundle

    return unbundle.open_bundle(
        project,
        request.bundle,
        backend=request.backend,
        platform=machine.platform,
        inputs=shared_inputs_of(project, request.backend, platform=machine.platform),
        names=called(project, request),
    )


def _trusted(found: Generation, request: Request) -> bool:
    """What was built with ``--verify none`` does for nobody who did not ask for it."""
    return request.verify is Verify.NONE or bool(found.manifest.get("verified", True))


def _told_apart(current: Generation, state: State) -> str:
    """The inputs that differ, in brackets; what the command line chooses with what was built."""
    differ = {name for name in {*state.inputs, *current.inputs} if state.inputs.get(name) != current.inputs.get(name)}
    if "backend" in differ:
        differ -= {"overlay", "record"}  # each backend has its own
    words = {
        "backend": f"backend {current.backend}",
        "additions": f"with {', '.join(current.extras) or 'no additions'}",
        **called(state.project, state.request),
    }
    told = [words.get(name, name) for name in sorted(differ)]
    return f" ({', '.join(told)})" if told else ""
