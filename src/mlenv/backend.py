"""Which build of the foundation a machine gets: catalogue, machine, overlays, channel, Python → backend, with reasons.

A build runs if the driver's CUDA major is at least the build's, *and* the build has code for every visible GPU
(docs: NVIDIA's compatibility guide; torch.cuda's own tables), *and* torch has wheels for the Python. A driver minor
below the build's is allowed. Pure, as far as the plugins are that are asked about their own backends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlenv.catalogue import Backend, Catalogue, Channel, Code, Release, Version, is_nightly
from mlenv.errors import NoBackendError, ProjectError
from mlenv.machine import Gpu, Machine, dotted

_MAJOR = re.compile(r"cuda(\d+)")
_NEEDS_DRIVER = "needs a driver"


@dataclass(frozen=True, kw_only=True)
class Automatic:
    """Nobody asked: the newest CUDA build that runs here, or the CPU build where no GPU is visible."""


@dataclass(frozen=True, kw_only=True)
class CudaMajor:
    """``--cuda13``: the newest build of that CUDA major that runs here."""

    major: int


@dataclass(frozen=True, kw_only=True)
class Named:
    """``--backend cu130``, ``--cpu`` or the setting: this one."""

    backend: str


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
class Criterion:
    """One thing that a backend was judged by. ``unknown``: nobody knows; ``skipped``: it doesn't count here."""

    name: Literal["platform", "driver", "compute capability", "plugin", "torch release", "Python"]
    verdict: Literal["yes", "no", "unknown", "skipped"]
    text: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one declared backend is worth here, by each criterion.

    ``certain`` is False where nobody knows which GPUs it has code for, or a build is known not to be there.
    """

    backend: Backend
    torch: str | None
    criteria: tuple[Criterion, ...] = ()
    notes: tuple[str, ...] = ()
    certain: bool = True

    @property
    def obstacle(self) -> str | None:
        """Why it does not run here, or None."""
        return next((one.text for one in self.criteria if one.verdict == "no"), None)

    @property
    def machine_obstacle(self) -> str | None:
        """Why the machine does not run it, whatever the Python is; or None."""
        return next((one.text for one in self.criteria if one.verdict == "no" and one.name != "Python"), None)

    def as_json(self) -> dict[str, Any]:
        """The judgement as JSON values."""
        criteria = [{("criterion" if k == "name" else k): v for k, v in vars(one).items()} for one in self.criteria]
        return {"backend": self.backend.name, "torch": self.torch, "criteria": criteria}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a backend is judged for: the Python (``3.12``; None: any) and the channel that torch comes from."""

    python: str | None = None
    channel: Channel = "stable"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One question: the machine, and a verdict for each declared backend, the newest CUDA first."""

    catalogue: Catalogue
    machine: Machine
    target: Target
    verdicts: tuple[Judgement, ...]

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


def parse_request(word: str | None) -> Request:
    """None → automatic, ``cuda13`` → a CUDA major, anything else → that backend."""
    if word is None:
        return Automatic()
    major = _MAJOR.fullmatch(word)
    return CudaMajor(major=int(major[1])) if major else Named(backend=word)


def choose(
    *,
    catalogue: Catalogue,
    machine: Machine,
    declared: Mapping[str, str | None],
    request: Request,
    force: bool = False,
    python: str | None = None,
    channel: Channel = "stable",
) -> Choice:
    """The backend for this machine. ``declared`` maps each backend with an overlay to the torch that it pins.

    ``force`` takes what was asked for even if this machine can't run it. Raises ProjectError where no overlay declares
    what was asked for, NoBackendError where it, or anything, doesn't run here.
    """
    target = Target(python=python, channel=channel)
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    case = _Case(catalogue=catalogue, machine=machine, target=target, verdicts=verdicts)
    if isinstance(request, Named):
        return _named(case, request.backend, force=force)
    if isinstance(request, CudaMajor):
        return _of_major(case, request.major, force=force)
    return _automatic(case)


def obstacles(
    *, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None], target: Target | None = None
) -> tuple[PassedOver, ...]:
    """Every declared backend that doesn't run here, newest first, with the reason."""
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    return tuple(_told(verdict) for verdict in verdicts if verdict.obstacle)


def uncovered(*, catalogue: Catalogue, machine: Machine, backend: str, torch: str) -> str | None:
    """Why a torch that is installed can't run on a visible GPU, as a sentence; None where it can, or nobody knows."""
    built = catalogue.backend(backend)
    code = catalogue.code(backend, torch, machine.platform)
    if built.cuda is None or code is None:
        return None
    judged = _code(catalogue, machine, built, torch, code)
    return f"torch {torch} of {backend}: {judged.text}" if judged.verdict == "no" else None


def _named(case: _Case, name: str, *, force: bool) -> Choice:
    chosen = case.find(name)
    if chosen is None:
        raise _undeclared(case, name)
    if chosen.machine_obstacle and not force:  # an index of one's own may have wheels for another Python
        last = f"add --force where {name} is wanted all the same"
        raise _nothing_fits(case, f"{name} does not run on this machine", tried=[chosen], last=last)
    return _choice(case, chosen, "it was asked for", lambda _: f"{name} was asked for")


def _of_major(case: _Case, major: int, *, force: bool) -> Choice:
    candidates = [verdict for verdict in case.verdicts if verdict.backend.cuda and verdict.backend.cuda[0] == major]
    if not candidates:
        raise _no_major(case, major)
    fitting = [verdict for verdict in candidates if verdict.obstacle is None]
    if not fitting and not force:
        message = f"no CUDA {major} backend of this project runs on this machine"
        last = f"add --force where CUDA {major} is wanted all the same"
        raise _nothing_fits(case, message, tried=candidates, last=last)
    chosen = _best(fitting or candidates)

    def why_not(other: Judgement) -> str:
        return _second_to(chosen, other) if other in candidates else f"CUDA {major} was asked for"

    reason = f"the newest CUDA {major} backend of this project" + _why_here(case.machine, forced=not fitting)
    return _choice(case, chosen, reason, why_not)


def _automatic(case: _Case) -> Choice:
    if case.machine.visible_gpus and case.fitting:
        chosen = _best(case.fitting)
        reason = "the newest CUDA backend of this project" + _why_here(case.machine, forced=False)
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
    message = "none of this project's backends runs on this machine's GPUs"
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


# ---- judging one backend


def judge(
    *, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None], target: Target | None = None
) -> tuple[Judgement, ...]:
    """A judgement on each declared backend, the newest CUDA first, those without CUDA last."""
    found = [(catalogue.backend(name), torch) for name, torch in declared.items()]
    found.sort(key=lambda item: (item[0].cuda or (0, 0), item[0].name), reverse=True)
    return tuple(_judge(catalogue, machine, backend, torch, target or Target()) for backend, torch in found)


def _judge(catalogue: Catalogue, machine: Machine, backend: Backend, torch: str | None, target: Target) -> Judgement:
    nightly = target.channel == "nightly" or (torch is not None and is_nightly(torch))
    notes: list[str] = []
    criteria = [_on_platform(catalogue, machine, backend)]
    certain = True
    if backend.cuda is not None and criteria[0].verdict == "yes":
        criteria += [_by_driver(catalogue, machine, backend.cuda)]
        code = None if torch is None else catalogue.code(backend.name, torch, machine.platform, channel=target.channel)
        if torch is not None and machine.visible_gpus:
            criteria += [_code(catalogue, machine, backend, torch, code)]
            certain = code is not None
            notes += [*_minor_note(machine, backend.cuda, backend.name), *_code_notes(backend, torch, code, nightly)]
        elif machine.visible_gpus:
            notes += _minor_note(machine, backend.cuda, backend.name)
    criteria += _by_plugin(machine, backend)
    if backend.cuda is None and not backend.is_cpu and backend.runs is None:
        notes += [f"mlenv can't tell whether this machine runs {backend.name}: it is no CUDA build"]
    if torch is not None and not nightly:
        existing = _existing(catalogue, backend.name, torch)
        criteria += [existing, *_for_python(catalogue.release(torch), target.python)]
        notes += [existing.text] if existing.verdict in ("no", "unknown") and existing.source else []
        certain = certain and catalogue.has_build(backend.name, torch) is not False
    return Judgement(backend=backend, torch=torch, criteria=tuple(criteria), notes=tuple(notes), certain=certain)


def _on_platform(catalogue: Catalogue, machine: Machine, backend: Backend) -> Criterion:
    name: Literal["platform"] = "platform"
    if catalogue.builds_for(backend.name, machine.platform):
        return Criterion(name=name, verdict="yes", text=machine.platform, source=backend.source)
    if machine.os == "macos":
        return Criterion(name=name, verdict="no", text="there are no CUDA builds for macOS")
    where = "Windows" if machine.os == "windows" else machine.arch
    return Criterion(name=name, verdict="no", text=f"there are no {where} builds of it", source=backend.source)


def _by_driver(catalogue: Catalogue, machine: Machine, cuda: Version) -> Criterion:
    """Whether the driver runs builds of that CUDA major. Without a CUDA version from NVML, its number decides."""
    floor = catalogue.driver_floors.get(cuda[0])
    source = floor.source if floor is not None else ""
    if not machine.visible_gpus:
        return Criterion(name="driver", verdict="skipped", text="no GPU is visible", source=source)
    # On WSL2 the driver is the one of Windows, and so is its number.
    oldest = None if floor is None else floor.windows if machine.os == "windows" or machine.wsl else floor.linux
    obstacle = _driver_obstacle(machine, cuda, oldest)
    runs = f"{machine.driver or 'number unknown'} runs builds of CUDA {cuda[0]}"
    return Criterion(name="driver", verdict="no" if obstacle else "yes", text=obstacle or runs, source=source)


def _driver_obstacle(machine: Machine, cuda: Version, oldest: str | None) -> str | None:
    if machine.cuda is not None and machine.cuda[0] >= cuda[0]:
        return None
    needs = f"{_NEEDS_DRIVER} for CUDA {cuda[0]}" + (f" ({oldest} or newer)" if oldest else "")
    if machine.cuda is not None:
        return f"{needs}; this one ({machine.driver or 'number unknown'}) goes to CUDA {dotted(machine.cuda)}"
    if machine.driver is None:
        return f"{needs}; this one tells neither its number nor its CUDA version"
    if oldest is None or _numbers(machine.driver) < _numbers(oldest):
        return f"{needs}; this one is {machine.driver}"
    return None


def _code(catalogue: Catalogue, machine: Machine, backend: Backend, torch: str, code: Code | None) -> Criterion:
    """Whether a build has code for every visible GPU."""
    name: Literal["compute capability"] = "compute capability"
    if code is None:
        text = f"mlenv doesn't know which GPUs torch {torch} of {backend.name} has code for: only the driver was judged"
        return Criterion(name=name, verdict="unknown", text=text)
    cuda = backend.cuda or (0, 0)
    missing = [gpu for gpu in machine.visible_gpus if not _runs(catalogue, machine, code, gpu, cuda)]
    if missing:
        text = _missing_in_words(missing, code.architectures) + _almost(catalogue, code, missing, cuda)
        return Criterion(name=name, verdict="no", text=text, source=code.source)
    capabilities = ", ".join(dotted(cc) for cc in sorted({gpu.compute_capability for gpu in machine.visible_gpus}))
    text = f"code for {', '.join(_as_capabilities(code.architectures))} runs on {capabilities}"
    return Criterion(name=name, verdict="yes", text=text, source=code.source)


def _runs(catalogue: Catalogue, machine: Machine, code: Code, gpu: Gpu, cuda: Version) -> bool:
    """Whether a GPU runs machine code of the build, or its PTX, which only a driver as new as the build compiles."""
    if any(catalogue.sass.runs(cubin, device=gpu.compute_capability, cuda=cuda) for cubin in code.architectures):
        return True
    return _has_ptx(code, gpu) and machine.cuda is not None and machine.cuda >= cuda


def _has_ptx(code: Code, gpu: Gpu) -> bool:
    return any(ptx <= gpu.compute_capability[0] * 10 + gpu.compute_capability[1] for ptx in code.ptx)


def _almost(catalogue: Catalogue, code: Code, missing: list[Gpu], cuda: Version) -> str:
    """What would make it run all the same: a driver that compiles its PTX, a build for an integrated GPU."""
    if all(_has_ptx(code, gpu) for gpu in missing):
        return f"; its PTX would run with a driver of CUDA {dotted(cuda)} or newer"
    later = catalogue.sass.relaxed_from
    if cuda < later and all(
        any(catalogue.sass.runs(cubin, device=gpu.compute_capability, cuda=later) for cubin in code.architectures)
        for gpu in missing
    ):
        return f"; builds for servers run on this integrated GPU from CUDA {dotted(later)} on"
    return ""


def _code_notes(backend: Backend, torch: str, code: Code | None, nightly: bool) -> Iterable[str]:  # noqa: FBT001
    if code is None:
        yield f"mlenv doesn't know which GPUs torch {torch} of {backend.name} has code for: only the driver was judged"
    elif nightly:
        yield f"a nightly of {backend.name} is not in mlenv's catalogue; it should run on the newest release's GPUs"
    elif not code.exact:
        told = f"torch {torch} of {backend.name} is not in mlenv's catalogue"
        yield f"{told}; the GPUs it has code for are its neighbours'"


def _by_plugin(machine: Machine, backend: Backend) -> Iterable[Criterion]:
    """What the plugin says that brings it. A CUDA build also runs without a GPU, so it is asked only where one is."""
    if backend.brought_by is None:
        return
    source = backend.brought_by
    if backend.runs is None or (backend.cuda is not None and not machine.visible_gpus):
        yield Criterion(name="plugin", verdict="skipped", text=f"{source} brings it", source=source)
        return
    reason = backend.runs(backend.name, machine)
    verdict: Literal["yes", "no"] = "yes" if reason is None else "no"
    yield Criterion(name="plugin", verdict=verdict, text=reason or f"{source} says that it runs", source=source)


def _existing(catalogue: Catalogue, backend: str, torch: str) -> Criterion:
    """Whether that torch has a build of the backend; no obstacle, as the overlay may know better."""
    name: Literal["torch release"] = "torch release"
    release, there = catalogue.release(torch), catalogue.has_build(backend, torch)
    if there:
        return Criterion(name=name, verdict="yes", text=f"torch {torch} has a {backend} build", source=_source(release))
    last = catalogue.newest_release(backend)
    known = f"; {last.torch} is the last it knows" if last is not None and release is not None else ""
    text = f"mlenv knows no {backend} build of torch {torch}{known}"
    return Criterion(name=name, verdict="unknown", text=text, source=_source(release))


def _source(release: Release | None) -> str:
    return f"torch {release.torch}: {release.source}" if release is not None else ""


def _for_python(release: Release | None, python: str | None) -> Iterable[Criterion]:
    if release is None or python is None:
        return
    minor = ".".join(python.split(".")[:2])
    if minor in release.python:
        text = f"torch {release.torch} has wheels for Python {minor}"
        yield Criterion(name="Python", verdict="yes", text=text, source=_source(release))
        return
    span = f"{release.python[0]} to {release.python[-1]} do" if len(release.python) > 1 else f"{release.python[0]} does"
    text = f"torch {release.torch} has no wheels for Python {minor}; {span}"
    yield Criterion(name="Python", verdict="no", text=text, source=_source(release))


def _minor_note(machine: Machine, cuda: Version, name: str) -> tuple[str, ...]:
    """NVIDIA's minor-version compatibility: allowed, and worth saying."""
    if machine.cuda is None or machine.cuda[0] != cuda[0] or machine.cuda >= cuda:
        return ()
    told = f"{name} is CUDA {dotted(cuda)} and the driver goes to {dotted(machine.cuda)}: fine within one major"
    return (told + ", but for what compiles PTX at run time",)


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


def _undeclared(case: _Case, name: str) -> ProjectError:
    import difflib

    near = difflib.get_close_matches(name, case.names, n=2)
    told = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(case.names) or 'none'}"
    return ProjectError(
        f"this project has no backend {name}; {told}",
        hint=case.catalogue.overlay_hint(name),
    )


def _no_major(case: _Case, major: int) -> ProjectError:
    of_major = [name for name in _could_add(case) if (case.catalogue.backend(name).cuda or (0, 0))[0] == major]
    add = f"`mlenv init --backend {of_major[0]}` adds one" if of_major else None
    return ProjectError(
        f"this project has no CUDA {major} backend; there are: {', '.join(case.names) or 'none'}",
        hint=add or f"write constraints/cu{major}N.txt for the build you want, N its minor",
    )


def _nothing_fits(case: _Case, message: str, *, tried: list[Judgement], last: str) -> NoBackendError:
    """NoBackendError with a line for each backend that was tried, and what this machine could run instead.

    ``last`` is the last resort its hint ends with.
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
    old = any((verdict.obstacle or "").startswith(_NEEDS_DRIVER) for verdict in tried)
    return NoBackendError("\n".join(lines), hint=_hints(instead, "update the driver" if old else None, last))


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


def _hints(*hints: str | None) -> str:
    return "; or ".join(hint for hint in hints if hint)


def _told(verdict: Judgement) -> PassedOver:
    return PassedOver(backend=verdict.backend.name, reason=verdict.obstacle or "")


# ---- words


def _missing_in_words(missing: list[Gpu], architectures: tuple[int, ...]) -> str:
    capabilities = " and ".join(dotted(cc) for cc in sorted({gpu.compute_capability for gpu in missing}))
    verb = "has" if len({gpu.compute_capability for gpu in missing}) == 1 else "have"
    which = ", ".join(f"GPU {gpu.index}: {gpu.name}" for gpu in missing)
    return f"compute capability {capabilities} {verb} no code in it; {_range(architectures, missing)} ({which})"


def _range(architectures: tuple[int, ...], missing: list[Gpu]) -> str:
    """``7.5 to 12.0 do``, or each one where a missing GPU lies in between."""
    known = _as_capabilities(architectures)
    numbers = [gpu.compute_capability[0] * 10 + gpu.compute_capability[1] for gpu in missing]
    if not known:
        return "no GPU's code is known to be"
    if len(known) == 1 or any(min(architectures) < number < max(architectures) for number in numbers):
        return f"it has code for {', '.join(known)}"
    return f"{known[0]} to {known[-1]} do"


def _as_capabilities(architectures: tuple[int, ...]) -> list[str]:
    return [dotted(divmod(number, 10)) for number in sorted(architectures)]


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


def _numbers(driver: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", driver))
