"""What one backend is worth on a machine: each criterion with its verdict and the source of the fact. Pure.

A build runs if the driver's CUDA major is at least the build's, *and* the build has code for every visible GPU
(docs: NVIDIA's compatibility guide; torch.cuda's own tables), *and* torch has wheels for the Python. A driver minor
below the build's is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mlenv import platforms
from mlenv.catalogue import Backend, Catalogue, Channel, Code, Release, Version, is_nightly
from mlenv.machine import Gpu, Machine, dotted
from mlenv.values import dataclass


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

    ``certain`` is False where nobody knows which GPUs it has code for (and no plugin brings it, which vouches for its
    own builds), or a build is known not to be there.
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

    @property
    def refused_by(self) -> tuple[str, ...]:
        """The criteria that keep it from running here."""
        return tuple(one.name for one in self.criteria if one.verdict == "no")

    @property
    def needs_driver_alone(self) -> bool:
        """Whether a newer driver is all that it needs to run here."""
        return self.certain and self.refused_by == ("driver",)

    @property
    def has_code(self) -> bool:
        """Whether it is known to have code for every visible GPU."""
        return any(one.name == "compute capability" and one.verdict == "yes" for one in self.criteria)

    def as_json(self) -> dict[str, Any]:
        """The judgement as JSON values."""
        criteria = [{("criterion" if k == "name" else k): v for k, v in vars(one).items()} for one in self.criteria]
        return {"backend": self.backend.name, "torch": self.torch, "criteria": criteria}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a backend is judged for: the Python (``3.12``; None: any) and the channel that torch comes from."""

    python: str | None = None
    channel: Channel = "stable"


def uncovered(*, catalogue: Catalogue, machine: Machine, backend: str, torch: str) -> str | None:
    """Why a torch that is installed can't run on a visible GPU, as a sentence; None where it can, or nobody knows."""
    built = catalogue.backend(backend)
    code = catalogue.code(backend, torch, machine.platform)
    if built.cuda is None or code is None:
        return None
    judged = _code(catalogue, machine, built, torch, code)
    return f"torch {torch} of {backend}: {judged.text}" if judged.verdict == "no" else None


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
            certain = code is not None or backend.brought_by is not None  # who brings it vouches for it
            notes += [*_minor_note(catalogue, machine, backend), *_code_notes(backend, torch, code, nightly)]
        elif machine.visible_gpus:
            notes += _minor_note(catalogue, machine, backend)
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
    if machine.platform not in platforms.KNOWN and backend.runs is None:  # a plugin knows its own
        return Criterion(name=name, verdict="no", text=f"mlenv knows no builds for {machine.platform}")
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
    runs = f"{machine.driver or 'the driver, its number unknown,'} runs builds of CUDA {cuda[0]}"
    return Criterion(name="driver", verdict="no" if obstacle else "yes", text=obstacle or runs, source=source)


def _driver_obstacle(machine: Machine, cuda: Version, oldest: str | None) -> str | None:
    if machine.cuda is not None and machine.cuda[0] >= cuda[0]:
        return None
    needs = f"needs a driver for CUDA {cuda[0]}" + (f" ({oldest} or newer)" if oldest else "")
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
        return Criterion(name=name, verdict="unknown", text=_unknown_code(backend, torch))
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
    return _has_ptx(code, gpu) and all_of_cuda(catalogue, machine, cuda) is True


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
        yield _unknown_code(backend, torch)
    elif nightly:
        yield f"a nightly of {backend.name} is not in mlenv's catalogue; it should run on the newest release's GPUs"
    elif not code.exact:
        told = f"torch {torch} of {backend.name} is not in mlenv's catalogue"
        yield f"{told}; the GPUs it has code for are its neighbours'"


def _unknown_code(backend: Backend, torch: str) -> str:
    judged = "only the driver was judged"
    if backend.runs is not None:
        judged = f"the driver was judged, and what {backend.brought_by} says of this machine"
    return f"mlenv doesn't know which GPUs torch {torch} of {backend.name} has code for: {judged}"


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
        return Criterion(
            name=name, verdict="yes", text=f"torch {torch} is built for {backend}", source=_source(release)
        )
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


def all_of_cuda(catalogue: Catalogue, machine: Machine, cuda: Version) -> bool | None:
    """Whether the driver is as new as that CUDA, and so compiles its PTX; None where nobody knows."""
    if machine.cuda is not None:
        return machine.cuda >= cuda
    came_with = catalogue.toolkit_drivers.get(cuda)
    if machine.driver is None or came_with is None or machine.jetson:
        return None
    if machine.os == "windows" or machine.wsl:  # the numbers are Linux's; Windows' drivers are of the same branches
        return _numbers(machine.driver)[:1] >= _numbers(came_with)[:1]
    return _numbers(machine.driver) >= _numbers(came_with)


def _minor_note(catalogue: Catalogue, machine: Machine, backend: Backend) -> tuple[str, ...]:
    """NVIDIA's minor-version compatibility: allowed, and worth saying."""
    cuda = backend.cuda
    if cuda is None or (machine.cuda is not None and machine.cuda[0] != cuda[0]):
        return ()
    if all_of_cuda(catalogue, machine, cuda) is not False:
        return ()
    goes_to = f"goes to {dotted(machine.cuda)}" if machine.cuda else f"({machine.driver}) is older than that"
    told = f"{backend.name} is CUDA {dotted(cuda)} and the driver {goes_to}: fine within one major"
    return (told + ", but for what compiles PTX at run time",)


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


def _numbers(driver: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", driver))
