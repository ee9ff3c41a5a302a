"""What would come next for a machine: which driver unlocks which torch, and which card is at its last release. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlenv.backend import newest_builds
from mlenv.catalogue import Catalogue, Release, minor_of
from mlenv.judgement import Judgement, Target, judge
from mlenv.machine import Gpu, Machine, dotted


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that would come next; ``kind`` is a stable word for programs."""

    kind: str
    message: str


def coming(catalogue: Catalogue, machine: Machine, *, chosen: str | None, target: Target) -> tuple[Step, ...]:
    """What a newer driver would give this machine, and which of its GPUs have seen their last torch."""
    if not machine.visible_gpus:
        return ()
    return (
        *_unlocked(catalogue, machine, target),
        *_full_features(catalogue, machine, chosen),
        *_last_releases(catalogue, machine),
    )


def _unlocked(catalogue: Catalogue, machine: Machine, target: Target) -> Iterator[Step]:
    """For each CUDA major that only the driver is too old for, the newest torch that it would bring."""
    declared = newest_builds(catalogue, python=target.python)
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    for major in sorted(catalogue.driver_floors):
        of_major = [v for v in verdicts if v.backend.cuda and v.backend.cuda[0] == major and _only_driver(v)]
        if not of_major:
            continue
        best = max(of_major, key=lambda v: (_age(catalogue, v.torch), v.backend.cuda or (0, 0)))
        floor = catalogue.driver_floors[major]
        number = floor.windows if machine.os == "windows" or machine.wsl else floor.linux
        told = f"driver {number} or newer would unlock {best.backend.name} (torch {best.torch})"
        yield Step(kind="driver-unlocks", message=told)


def _only_driver(verdict: Judgement) -> bool:
    refused = [one.name for one in verdict.criteria if one.verdict == "no"]
    return refused == ["driver"] and verdict.certain


def _age(catalogue: Catalogue, torch: str | None) -> int:
    """Greater for a newer torch."""
    return -next(place for place, release in enumerate(catalogue.releases) if release.torch == torch)


def _full_features(catalogue: Catalogue, machine: Machine, chosen: str | None) -> Iterator[Step]:
    """The driver that came with the chosen build's CUDA, where this one is older within the major."""
    cuda = catalogue.backend(chosen).cuda if chosen is not None else None
    if cuda is None or machine.cuda is None or machine.cuda >= cuda or machine.cuda[0] != cuda[0]:
        return
    driver = catalogue.toolkit_drivers.get(cuda)
    if driver is not None and machine.os == "linux" and not machine.wsl:
        told = f"driver {driver} or newer has all of CUDA {dotted(cuda)}, run-time compilation of PTX included"
        yield Step(kind="driver-full-features", message=told)


def _last_releases(catalogue: Catalogue, machine: Machine) -> Iterator[Step]:
    by_capability: dict[tuple[int, int], Gpu] = {gpu.compute_capability: gpu for gpu in machine.visible_gpus}
    for capability, gpu in sorted(by_capability.items()):
        found = next((r for r in catalogue.releases if _with_code(catalogue, machine, gpu, r)), None)
        if found is None or found is catalogue.releases[0]:
            continue
        after = catalogue.releases[catalogue.releases.index(found) - 1]
        backend = _with_code(catalogue, machine, gpu, found)[0]
        told = f"{gpu.name} ({dotted(capability)}): {backend} with torch {found.torch} is its last release"
        yield Step(kind="last-release", message=f"{told}: {_why_last(catalogue, backend, after)}")


def _with_code(catalogue: Catalogue, machine: Machine, gpu: Gpu, release: Release) -> list[str]:
    """The CUDA builds of a release that have code for a GPU, newest first, whatever the driver."""
    alone = replace(machine, gpus=(gpu,), cuda=(9999, 0))
    verdicts = judge(
        catalogue=catalogue,
        machine=alone,
        declared=dict.fromkeys((*release.backends, *release.unconfirmed), release.torch),
    )
    return [v.backend.name for v in verdicts if v.backend.cuda and v.obstacle is None]


def _why_last(catalogue: Catalogue, backend: str, after: Release) -> str:
    """Why the release ``after`` has nothing for the GPU that ``backend`` has code for."""
    major = (catalogue.backend(backend).cuda or (0, 0))[0]
    cudas = [catalogue.backend(name).cuda for name in (*after.backends, *after.unconfirmed)]
    majors = sorted({cuda[0] for cuda in cudas if cuda is not None})
    minor = dotted(minor_of(after.torch) or (0, 0))
    own = f"no CUDA {major} build from {minor} on" if major not in majors else ""
    others = [f"CUDA {other} has no code for it" for other in majors]
    return ", and ".join(part for part in (own, *others) if part)
