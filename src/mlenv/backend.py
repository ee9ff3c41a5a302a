"""Which build of the foundation a machine gets: catalogue, machine, overlays, channel, Python → backend, with reasons.

Each declared backend is judged for itself (``judgement``); here one is chosen among them. Pure, as far as the plugins
are that are asked about their own backends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mlenv import platforms
from mlenv.catalogue import Catalogue, Channel
from mlenv.errors import NoBackendError, ProjectError
from mlenv.judgement import Judgement, Target, judge
from mlenv.machine import Machine, dotted
from mlenv.values import dataclass

OF_PROJECT = "of this project"
_MAJOR = r"cuda(\d+)"


@dataclass(frozen=True, kw_only=True)
class Automatic:
    """Nobody asked: the newest CUDA build that runs here, or the CPU build where no GPU is visible."""


@dataclass(frozen=True, kw_only=True)
class CudaMajor:
    """``--cuda13``: the newest build of that CUDA major that runs here. ``said_by`` is the setting that asks for it."""

    major: int
    said_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Named:
    """``--backend cu130``, ``--cpu`` or the setting: this one. ``said_by`` is the setting that asks for it."""

    backend: str
    said_by: str | None = None


Request = Automatic | CudaMajor | Named


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A backend that was not chosen, and why."""

    backend: str
    reason: str

    def __str__(self) -> str:
        """``cu132: compute capability 6.1 has no code in it; ...``."""
        return f"{self.backend}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The backend, why it, why not each other one, and what is worth knowing about it."""

    backend: str
    reasons: tuple[str, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {
            "backend": self.backend,
            "reasons": list(self.reasons),
            "passed_over": [vars(other) for other in self.passed_over],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One question: the machine, and a verdict for each declared backend, the newest CUDA first."""

    catalogue: Catalogue
    machine: Machine
    target: Target
    verdicts: tuple[Judgement, ...]
    among: str
    can_force: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The declared backends."""
        return tuple(verdict.backend.name for verdict in self.verdicts)

    @property
    def fitting(self) -> tuple[Judgement, ...]:
        """The CUDA backends that run here."""
        return tuple(verdict for verdict in self.verdicts if verdict.backend.cuda and verdict.obstacle is None)

    def find(self, name: str) -> Judgement | None:
        """The verdict on one backend, or None where it isn't declared."""
        return next((verdict for verdict in self.verdicts if verdict.backend.name == name), None)


def parse_request(word: str | None, *, said_by: str | None = None) -> Request:
    """None → automatic, ``cuda13`` → a CUDA major, anything else → that backend. ``said_by``: the setting."""
    if word is None:
        return Automatic()
    major = re.fullmatch(_MAJOR, word)
    return CudaMajor(major=int(major[1]), said_by=said_by) if major else Named(backend=word, said_by=said_by)


def choose(
    *,
    catalogue: Catalogue,
    machine: Machine,
    declared: Mapping[str, str | None],
    request: Request,
    force: bool = False,
    can_force: bool = False,
    among: str = OF_PROJECT,
    python: str | None = None,
    channel: Channel = "stable",
) -> Choice:
    """The backend for this machine. ``declared`` maps each backend with an overlay to the torch that it pins.

    ``force`` takes what was asked for even if this machine can't run it; ``can_force``: hints may say so.
    ``among`` says whose backends are ``declared``. Raises ProjectError where no overlay declares what was asked for,
    NoBackendError where it, or anything, doesn't run here.
    """
    target = Target(python=python, channel=channel)
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    case = _Case(
        catalogue=catalogue, machine=machine, target=target, verdicts=verdicts, among=among, can_force=can_force
    )
    if isinstance(request, Named):
        return _named(case, request, force=force)
    if isinstance(request, CudaMajor):
        return _of_major(case, request, force=force)
    return _automatic(case)


def obstacles(
    *, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None], target: Target | None = None
) -> tuple[PassedOver, ...]:
    """Every declared backend that doesn't run here, newest first, with the reason."""
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    return tuple(_told(verdict) for verdict in verdicts if verdict.obstacle)


def _named(case: _Case, request: Named, *, force: bool) -> Choice:
    name, chosen = request.backend, case.find(request.backend)
    if chosen is None:
        raise _undeclared(case, request)
    if chosen.machine_obstacle and not force:  # an index of one's own may have wheels for another Python
        message = f"{name}{_by_setting(request)} does not run on this machine"
        raise _nothing_fits(case, message, tried=[chosen], last=_forcing(case, name))
    reason = f"the setting says so: {request.said_by}" if request.said_by else "it was asked for"
    return _choice(case, chosen, reason, lambda _: f"{name} was asked for")


def _by_setting(request: Named | CudaMajor) -> str:
    return f", which {request.said_by} asks for," if request.said_by else ""


def _forcing(case: _Case, name: str) -> str | None:
    return f"add --force where {name} is wanted all the same" if case.can_force else None


def _of_major(case: _Case, request: CudaMajor, *, force: bool) -> Choice:
    major = request.major
    candidates = [verdict for verdict in case.verdicts if verdict.backend.cuda and verdict.backend.cuda[0] == major]
    if not candidates:
        raise _no_major(case, major)
    fitting = [verdict for verdict in candidates if verdict.obstacle is None]
    if not fitting and not force:
        message = f"no CUDA {major} backend {case.among} runs on this machine"
        raise _nothing_fits(case, message, tried=candidates, last=_forcing(case, f"CUDA {major}"))
    chosen = _best(fitting or candidates)

    def why_not(other: Judgement) -> str:
        return _second_to(chosen, other) if other in candidates else f"CUDA {major} was asked for"

    reason = f"the newest CUDA {major} backend {case.among}" + _why_here(case.machine, forced=not fitting)
    reason += f"; the setting asks for CUDA {major}: {request.said_by}" if request.said_by else ""
    return _choice(case, chosen, reason, why_not)


def _automatic(case: _Case) -> Choice:
    if case.machine.visible_gpus and case.fitting:
        chosen = _best(case.fitting)
        reason = f"the newest CUDA backend {case.among}" + _why_here(case.machine, forced=False)
        if chosen.backend.brought_by and any(_as_new(chosen, other) for other in case.fitting):
            reason += f"; {chosen.backend.brought_by} brings it for such machines"
        return _choice(case, chosen, reason, lambda other: _not_automatic(chosen, other))
    said = [verdict for verdict in case.verdicts if _says_it_runs(verdict)]
    if said:
        name = said[0].backend.name
        reason = f"{said[0].backend.brought_by} says that it runs here"
        return _choice(case, said[0], reason, lambda _: f"{name} runs here" + _without_nvidia(case.machine))
    if not case.machine.visible_gpus:
        return _without_gpu(case)
    message = f"no backend {case.among} runs on this machine's GPUs"
    last = "--cpu needs no GPU" if case.find("cpu") else "`mlenv init --backend cpu` adds the one that needs no GPU"
    raise _nothing_fits(case, message, tried=[v for v in case.verdicts if v.backend.cuda], last=last)


def _not_automatic(chosen: Judgement, other: Judgement) -> str:
    if other.backend.is_cpu:
        return "a GPU is visible"
    if other.backend.cuda is None:
        return "it is no CUDA build, and taken only where it is named, or where no CUDA build runs"
    return _second_to(chosen, other)


def _says_it_runs(verdict: Judgement) -> bool:
    """Whether it is no CUDA build, and the plugin that brings it says that it runs here."""
    return verdict.backend.cuda is None and verdict.backend.runs is not None and verdict.obstacle is None


def _without_nvidia(machine: Machine) -> str:
    return "" if machine.visible_gpus else ", and no NVIDIA GPU is visible"


def _without_gpu(case: _Case) -> Choice:
    """The CPU build; never where a GPU is there and can't be used, because that would hide the fault."""
    fault = case.machine.driver_fault
    if fault is not None:
        raise NoBackendError(
            f"a GPU or its driver is there and can't be used: {fault.message}",
            hint=_hints(fault.hint, f"name a backend: {_examples(case)}"),
        )
    why = _no_gpu_in_words(case.machine)
    chosen = case.find("cpu")
    if chosen is None:
        also = f"name one: {_examples(case)}; a CUDA backend also runs without a GPU" if case.verdicts else None
        raise NoBackendError(
            f"{why}, and this project has no cpu overlay", hint=_hints("`mlenv init --backend cpu` writes it", also)
        )
    if chosen.obstacle:
        raise _nothing_fits(case, f"{why}, and the cpu backend can't be had", tried=[chosen], last="change its overlay")
    return _choice(case, chosen, why, lambda _: why)


# ---- choosing among verdicts


def _best(fitting: Iterable[Judgement]) -> Judgement:
    """The newest CUDA, a plugin's before PyTorch's; what nobody knows anything about only where there is no other."""
    return max(fitting, key=lambda v: (v.certain, v.backend.cuda or (0, 0), v.backend.brought_by is not None))


def _as_new(one: Judgement, other: Judgement) -> bool:
    return one != other and one.backend.cuda == other.backend.cuda


def _second_to(chosen: Judgement, other: Judgement) -> str:
    """Why one that may run, too, comes after the chosen one."""
    name = chosen.backend.name
    if other.certain and _as_new(chosen, other) and chosen.backend.brought_by:
        return f"{name} is as new, and {chosen.backend.brought_by} brings it for such machines"
    return f"{name} is newer" if other.certain else f"it may run too, but {name} is known to; name it to take it"


def _choice(case: _Case, chosen: Judgement, reason: str, why_not: Callable[[Judgement], str]) -> Choice:
    """``why_not`` says why a backend that has no obstacle was passed over."""
    name = chosen.backend.name
    others = (verdict for verdict in case.verdicts if verdict != chosen)
    forced = (f"{name}: {chosen.obstacle}",) if chosen.obstacle else ()
    warnings = tuple(found.message for found in case.machine.findings if found.severity != "note")
    return Choice(
        backend=name,
        reasons=(reason,),
        passed_over=tuple(PassedOver(backend=v.backend.name, reason=v.obstacle or why_not(v)) for v in others),
        notes=chosen.notes + forced + warnings,
    )


# ---- errors


def _undeclared(case: _Case, request: Named) -> ProjectError:
    import difflib

    name, by = request.backend, _by_setting(request).rstrip(",")
    who = "this project has" if case.among == OF_PROJECT else "mlenv knows"
    near = difflib.get_close_matches(name, case.names, n=2)
    told = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(case.names) or 'none'}"
    return ProjectError(
        f"{who} no backend {name}{by}; {told}",
        hint=_hints(f"change {request.said_by}" if request.said_by else None, case.catalogue.overlay_hint(name)),
    )


def _no_major(case: _Case, major: int) -> ProjectError:
    of_major = [name for name in _could_add(case) if (case.catalogue.backend(name).cuda or (0, 0))[0] == major]
    add = f"`mlenv init --backend {of_major[0]}` adds one" if of_major else None
    return ProjectError(
        f"this project has no CUDA {major} backend; there are: {', '.join(case.names) or 'none'}",
        hint=add or f"write constraints/cu{major}N.txt for the build you want, N its minor",
    )


def _nothing_fits(case: _Case, message: str, *, tried: list[Judgement], last: str | None) -> NoBackendError:
    """NoBackendError with a line for each backend that was tried, and what this machine could run instead.

    ``last`` is the last resort its hint ends with; on a platform that no build is for, nothing helps.
    """
    lines = [message, *(f"  {_told(verdict)}" for verdict in tried)]
    instead = None
    addable = [name for name in _could_add(case) if name not in case.names]
    if case.fitting:
        lines.append(f"this machine runs {', '.join(verdict.backend.name for verdict in case.fitting)}")
        instead = f"--backend {_best(case.fitting).backend.name}"
    elif addable:
        lines.append(f"{addable[0]} would run here, and this project has no overlay for it")
        instead = f"`mlenv init --backend {addable[0]}` adds it"
    update = None
    if any(verdict.needs_driver_alone for verdict in tried):
        update = "update JetPack, which brings the driver" if case.machine.jetson else "update the driver"
    if case.machine.platform not in platforms.KNOWN and all("platform" in one.refused_by for one in case.verdicts):
        last = None
    return NoBackendError("\n".join(lines), hint=_hints(instead, update, *_each_gpu(case), last))


def _each_gpu(case: _Case) -> Iterator[str]:
    """Where the GPUs differ: what each kind would get, were it the only one that is visible."""
    kinds = sorted({gpu.compute_capability for gpu in case.machine.visible_gpus})
    for kind in kinds if len(kinds) > 1 else ():
        gpus = tuple(gpu for gpu in case.machine.visible_gpus if gpu.compute_capability == kind)
        alone, declared = replace(case.machine, gpus=gpus), {one.backend.name: one.torch for one in case.verdicts}
        found = judge(catalogue=case.catalogue, machine=alone, declared=declared, target=case.target)
        fitting = [one for one in found if one.backend.cuda and one.obstacle is None]
        if fitting:
            # NVML counts along the PCI bus; CUDA does so where it is told to
            only = f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={','.join(str(gpu.index) for gpu in gpus)}"
            yield f"`export {only}` leaves {gpus[0].name}, which gets {_best(fitting).backend.name}"


def _could_add(case: _Case) -> list[str]:
    """The CUDA backends of the catalogue that run here with the newest torch that has them, newest first."""
    torches = newest_builds(case.catalogue, python=case.target.python)
    verdicts = judge(catalogue=case.catalogue, machine=case.machine, declared=torches, target=case.target)
    return [v.backend.name for v in verdicts if v.backend.cuda and v.obstacle is None and v.certain]


def newest_builds(catalogue: Catalogue, *, python: str | None = None) -> dict[str, str | None]:
    """Each backend of the catalogue with the newest torch that has it, and wheels for that Python."""
    minor = None if python is None else ".".join(python.split(".")[:2])
    newest = {name: catalogue.newest_release(name, python=minor) for name in catalogue.backends}
    return {name: release.torch for name, release in newest.items() if release is not None}


def _examples(case: _Case) -> str:
    names = case.names or ("cpu",)
    return " or ".join(f"--backend {name}" for name in dict.fromkeys((names[0], names[-1])))


def _hints(*hints: str | None) -> str | None:
    return "; or ".join(hint for hint in hints if hint) or None


def _told(verdict: Judgement) -> PassedOver:
    return PassedOver(backend=verdict.backend.name, reason=verdict.obstacle or "")


# ---- words


def _why_here(machine: Machine, *, forced: bool) -> str:
    if forced:
        return ", forced"
    if machine.visible_gpus:
        return f" that runs here: {_gpus_in_words(machine)}"
    return "; no GPU is visible, and it also runs without one"


def _gpus_in_words(machine: Machine) -> str:
    capabilities = ", ".join(dotted(cc) for cc in sorted({gpu.compute_capability for gpu in machine.visible_gpus}))
    driver = f"CUDA {dotted(machine.cuda)}" if machine.cuda else machine.driver or "unknown"
    return f"driver {driver}, compute capability {capabilities}"


def _no_gpu_in_words(machine: Machine) -> str:
    if machine.gpus:
        count = f"{len(machine.gpus)} GPU" + ("s" if len(machine.gpus) > 1 else "")
        return f"no GPU is visible: CUDA_VISIBLE_DEVICES hides {count}"
    return "there are no CUDA builds for macOS" if machine.os == "macos" else "no NVIDIA GPU is there"
