"""Which build of the foundation a machine gets: (catalogue, machine, overlays, request) → backend, with reasons. Pure.

A build runs if the driver's CUDA major is at least the build's, *and* the build has code for every visible GPU
(docs: NVIDIA's compatibility guide; torch.cuda's own tables). A driver minor below the build's is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlenv.catalogue import Backend, Catalogue, Version
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
class _Verdict:
    """What one declared backend is worth here. ``certain`` is False where nobody knows which GPUs it has code for."""

    backend: Backend
    obstacle: str | None = None
    notes: tuple[str, ...] = ()
    certain: bool = True


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One question: the machine, and a verdict for each declared backend, the newest CUDA first."""

    catalogue: Catalogue
    machine: Machine
    verdicts: tuple[_Verdict, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The declared backends."""
        return tuple(verdict.backend.name for verdict in self.verdicts)

    @property
    def fitting(self) -> tuple[_Verdict, ...]:
        """The CUDA backends that run here."""
        return tuple(verdict for verdict in self.verdicts if verdict.backend.cuda and verdict.obstacle is None)

    def find(self, name: str) -> _Verdict | None:
        """The verdict on one backend, or None where it isn't declared."""
        return next((verdict for verdict in self.verdicts if verdict.backend.name == name), None)


@dataclass(frozen=True, kw_only=True)
class _Coverage:
    """Whether a build has code for the visible GPUs: ``gap`` says for which it has none."""

    gap: str | None = None
    notes: tuple[str, ...] = ()
    certain: bool = True


def parse_request(word: str | None) -> Request:
    """None → automatic, ``cuda13`` → a CUDA major, anything else → that backend."""
    if word is None:
        return Automatic()
    major = _MAJOR.fullmatch(word)
    return CudaMajor(major=int(major[1])) if major else Named(backend=word)


def choose(
    *, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None], request: Request, force: bool = False
) -> Choice:
    """The backend for this machine. ``declared`` maps each backend with an overlay to the torch that it pins.

    ``force`` takes what was asked for even if this machine can't run it. Raises ProjectError where no overlay declares
    what was asked for, NoBackendError where it, or anything, doesn't run here.
    """
    case = _Case(catalogue=catalogue, machine=machine, verdicts=_judge_all(catalogue, machine, declared))
    if isinstance(request, Named):
        return _named(case, request.backend, force=force)
    if isinstance(request, CudaMajor):
        return _of_major(case, request.major, force=force)
    return _automatic(case)


def obstacles(*, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None]) -> tuple[PassedOver, ...]:
    """Every declared backend that doesn't run here, newest first, with the reason."""
    return tuple(_told(verdict) for verdict in _judge_all(catalogue, machine, declared) if verdict.obstacle)


def uncovered(*, catalogue: Catalogue, machine: Machine, backend: str, torch: str) -> str | None:
    """Why a torch that is installed can't run on a visible GPU, as a sentence; None where it can, or nobody knows."""
    gap = _coverage(catalogue, machine, catalogue.backend(backend), torch).gap
    return None if gap is None else f"torch {torch} of {backend}: {gap}"


def _named(case: _Case, name: str, *, force: bool) -> Choice:
    chosen = case.find(name)
    if chosen is None:
        raise _undeclared(case, name)
    if chosen.obstacle and not force:
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

    def why_not(other: _Verdict) -> str:
        return _second_to(chosen, other) if other in candidates else f"CUDA {major} was asked for"

    reason = f"the newest CUDA {major} backend of this project" + _why_here(case.machine, forced=not fitting)
    return _choice(case, chosen, reason, why_not)


def _automatic(case: _Case) -> Choice:
    if not case.machine.visible_gpus:
        return _without_gpu(case)
    fitting = case.fitting
    if not fitting:
        message = "none of this project's backends runs on this machine's GPUs"
        last = "--cpu needs no GPU" if case.find("cpu") else "`mlenv init --backend cpu` adds the one that needs no GPU"
        raise _nothing_fits(case, message, tried=[v for v in case.verdicts if v.backend.cuda], last=last)
    chosen = _best(fitting)

    def why_not(other: _Verdict) -> str:
        if other.backend.is_cpu:
            return "a GPU is visible"
        if other.backend.cuda is None:
            return "it is no CUDA build, and taken only where it is named"
        return _second_to(chosen, other)

    reason = "the newest CUDA backend of this project" + _why_here(case.machine, forced=False)
    return _choice(case, chosen, reason, why_not)


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
    return _choice(case, chosen, why, lambda _: why)


# ---- judging one backend


def _judge_all(catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None]) -> tuple[_Verdict, ...]:
    """A verdict for each declared backend, the newest CUDA first, those without CUDA last."""
    found = [(catalogue.backend(name), torch) for name, torch in declared.items()]
    found.sort(key=lambda item: (item[0].cuda or (0, 0), item[0].name), reverse=True)
    return tuple(_judge(catalogue, machine, backend, torch) for backend, torch in found)


def _judge(catalogue: Catalogue, machine: Machine, backend: Backend, torch: str | None) -> _Verdict:
    if backend.cuda is None:
        note = f"mlenv can't tell whether this machine runs {backend.name}: it is no CUDA build"
        return _Verdict(backend=backend, notes=() if backend.is_cpu else (note,))
    obstacle = _no_build_for(machine, backend)
    if obstacle is not None or not machine.visible_gpus:
        return _Verdict(backend=backend, obstacle=obstacle)
    covered = _coverage(catalogue, machine, backend, torch)
    return _Verdict(
        backend=backend,
        obstacle=_driver_obstacle(catalogue, machine, backend.cuda) or covered.gap,
        notes=_minor_note(machine, backend.cuda, backend.name) + covered.notes,
        certain=covered.certain,
    )


def _no_build_for(machine: Machine, backend: Backend) -> str | None:
    if machine.os == "macos":
        return "there are no CUDA builds for macOS"
    if machine.os == "windows" and not backend.windows:
        return "there are no Windows builds of it"
    return None


def _driver_obstacle(catalogue: Catalogue, machine: Machine, cuda: Version) -> str | None:
    """Why the driver doesn't run builds of that CUDA major. Without a CUDA version from NVML, its number decides."""
    if machine.cuda is not None and machine.cuda[0] >= cuda[0]:
        return None
    floor = catalogue.driver_floors.get(cuda[0])
    # On WSL2 the driver is the one of Windows, and so is its number.
    oldest = None if floor is None else floor.windows if machine.os == "windows" or machine.wsl else floor.linux
    needs = f"{_NEEDS_DRIVER} for CUDA {cuda[0]}" + (f" ({oldest} or newer)" if oldest else "")
    if machine.cuda is not None:
        return f"{needs}; this one ({machine.driver or 'number unknown'}) goes to CUDA {dotted(machine.cuda)}"
    if machine.driver is None:
        return f"{needs}; this one tells neither its number nor its CUDA version"
    if oldest is None or _numbers(machine.driver) < _numbers(oldest):
        return f"{needs}; this one is {machine.driver}"
    return None


def _coverage(catalogue: Catalogue, machine: Machine, backend: Backend, torch: str | None) -> _Coverage:
    """What a build lacks code for, over all visible GPUs. An overlay without torch has nothing to be judged by."""
    if torch is None or backend.cuda is None:
        return _Coverage()
    code = catalogue.code(backend.name, torch, machine.platform)
    if code is None:
        note = f"mlenv doesn't know which GPUs torch {torch} of {backend.name} has code for: only the driver was judged"
        return _Coverage(notes=(note,), certain=False)
    note = f"torch {torch} of {backend.name} is not in mlenv's catalogue; the GPUs it has code for are its neighbours'"
    missing = [gpu for gpu in machine.visible_gpus if not _runs(catalogue, code.architectures, gpu, backend.cuda)]
    gap = _missing_in_words(missing, code.architectures) if missing else None
    return _Coverage(gap=gap, notes=() if code.exact else (note,))


def _runs(catalogue: Catalogue, architectures: tuple[int, ...], gpu: Gpu, cuda: Version) -> bool:
    return any(catalogue.sass.runs(cubin, device=gpu.compute_capability, cuda=cuda) for cubin in architectures)


def _minor_note(machine: Machine, cuda: Version, name: str) -> tuple[str, ...]:
    """NVIDIA's minor-version compatibility: allowed, and worth saying."""
    if machine.cuda is None or machine.cuda[0] != cuda[0] or machine.cuda >= cuda:
        return ()
    told = f"{name} is CUDA {dotted(cuda)} and the driver goes to {dotted(machine.cuda)}: fine within one major"
    return (told + ", but for what compiles PTX at run time",)


# ---- choosing among verdicts


def _best(fitting: Iterable[_Verdict]) -> _Verdict:
    """The newest CUDA; a build that nobody knows anything about only where there is no other."""
    return max(fitting, key=lambda verdict: (verdict.certain, verdict.backend.cuda or (0, 0)))


def _second_to(chosen: _Verdict, other: _Verdict) -> str:
    """Why one that may run, too, comes after the chosen one."""
    name = chosen.backend.name
    return f"{name} is newer" if other.certain else f"it may run too, but {name} is known to; name it to take it"


def _choice(case: _Case, chosen: _Verdict, reason: str, why_not: Callable[[_Verdict], str]) -> Choice:
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


def _nothing_fits(case: _Case, message: str, *, tried: list[_Verdict], last: str) -> NoBackendError:
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
    newest = {name: case.catalogue.newest_release(name) for name in case.catalogue.backends}
    torches = {name: release.torch for name, release in newest.items() if release is not None}
    verdicts = _judge_all(case.catalogue, case.machine, torches)
    return [v.backend.name for v in verdicts if v.backend.cuda and v.obstacle is None and v.certain]


def _examples(case: _Case) -> str:
    names = case.names or ("cpu",)
    return " or ".join(f"--backend {name}" for name in dict.fromkeys((names[0], names[-1])))


def _hints(*hints: str | None) -> str:
    return "; or ".join(hint for hint in hints if hint)


def _told(verdict: _Verdict) -> PassedOver:
    return PassedOver(backend=verdict.backend.name, reason=verdict.obstacle or "")


# ---- words


def _missing_in_words(missing: list[Gpu], architectures: tuple[int, ...]) -> str:
    capabilities = " and ".join(dotted(cc) for cc in sorted({gpu.compute_capability for gpu in missing}))
    verb = "has" if len({gpu.compute_capability for gpu in missing}) == 1 else "have"
    which = ", ".join(f"GPU {gpu.index}: {gpu.name}" for gpu in missing)
    return f"compute capability {capabilities} {verb} no code in it; {_range(architectures, missing)} ({which})"


def _range(architectures: tuple[int, ...], missing: list[Gpu]) -> str:
    """``7.5 to 12.0 do``, or each one where a missing GPU lies in between."""
    known = [dotted(divmod(number, 10)) for number in sorted(architectures)]
    numbers = [gpu.compute_capability[0] * 10 + gpu.compute_capability[1] for gpu in missing]
    if not known:
        return "no GPU's code is known to be"
    if len(known) == 1 or any(min(architectures) < number < max(architectures) for number in numbers):
        return f"it has code for {', '.join(known)}"
    return f"{known[0]} to {known[-1]} do"


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
