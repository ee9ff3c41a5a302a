"""What would come next for a machine: which driver unlocks which torch, and which card is at its last release. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mlenv.backend import newest_builds
from mlenv.catalogue import Catalogue, Release, minor_of
from mlenv.judgement import Target, all_of_cuda, judge
from mlenv.machine import Gpu, Machine, dotted
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that would come next; ``kind`` is a stable word for programs."""

    kind: str
    message: str


def coming(catalogue: Catalogue, machine: Machine, *, chosen: str | None, target: Target) -> tuple[Step, ...]:
    """What a newer driver would give this machine, which of its GPUs have seen their last torch, which had none."""
    if not machine.visible_gpus:
        return ()
    by_capability = {gpu.compute_capability: gpu for gpu in machine.visible_gpus}
    cards = [gpu for _, gpu in sorted(by_capability.items())]
    return (
        *_unlocked(catalogue, machine, target),
        *_full_features(catalogue, machine, chosen),
        *(step for gpu in cards for step in _of_card(catalogue, machine, gpu, chosen)),
    )


def _unlocked(catalogue: Catalogue, machine: Machine, target: Target) -> Iterator[Step]:
    """For each CUDA major that only the driver is too old for, the newest torch that it would bring.

    Where no driver is known, nothing says that a card works with an old one: then only the newest is told.
    """
    declared = newest_builds(catalogue, python=target.python)
    verdicts = judge(catalogue=catalogue, machine=machine, declared=declared, target=target)
    needing = [v for v in verdicts if v.backend.cuda and v.needs_driver_alone]
    majors = sorted({v.backend.cuda[0] for v in needing if v.backend.cuda} & set(catalogue.driver_floors))
    for major in majors if machine.driver or machine.cuda else majors[-1:]:
        of_major = [v for v in needing if v.backend.cuda and v.backend.cuda[0] == major]
        best = max(of_major, key=lambda v: (_age(catalogue, v.torch), v.backend.cuda or (0, 0)))
        floor = catalogue.driver_floors[major]
        number = floor.windows if machine.os == "windows" or machine.wsl else floor.linux
        which = f"a JetPack with driver {number}" if machine.jetson else f"driver {number}"
        told = f"{which} or newer would unlock {best.backend.name} (torch {best.torch})"
        yield Step(kind="driver-unlocks", message=told)


def _age(catalogue: Catalogue, torch: str | None) -> int:
    """Greater for a newer torch."""
    return -next(place for place, release in enumerate(catalogue.releases) if release.torch == torch)


def _full_features(catalogue: Catalogue, machine: Machine, chosen: str | None) -> Iterator[Step]:
    """The driver that came with the chosen build's CUDA, where this one is older within the major."""
    cuda = catalogue.backend(chosen).cuda if chosen is not None else None
    if cuda is None or all_of_cuda(catalogue, machine, cuda) is not False:
        return
    if machine.cuda is not None and machine.cuda[0] != cuda[0]:  # --force takes a build of another major, too
        return
    driver = catalogue.toolkit_drivers.get(cuda)
    if driver is not None and machine.os == "linux" and not machine.wsl:
        which = f"a JetPack of CUDA {dotted(cuda)}" if machine.jetson else f"driver {driver}"
        told = f"{which} or newer has all of CUDA {dotted(cuda)}, run-time compilation of PTX included"
        yield Step(kind="driver-full-features", message=told)


def _of_card(catalogue: Catalogue, machine: Machine, gpu: Gpu, chosen: str | None) -> Iterator[Step]:
    """Whether a card has seen its last torch, or no torch has code for it; nothing where an unconfirmed build may."""
    called = f"{gpu.name} ({dotted(gpu.compute_capability)})"
    for place, release in enumerate(catalogue.releases):
        backends = _with_code(catalogue, machine, gpu, release)
        if not backends:
            continue
        if place and backends[0] in release.backends:
            told = f"{called}: {backends[0]} with torch {release.torch} is its last release"
            why = _why_last(catalogue, backends[0], catalogue.releases[place - 1])
            yield Step(kind="last-release", message=f"{told}: {why}")
        return
    if chosen is None:
        yield Step(kind="no-code", message=f"{called}: {_why_none(catalogue, machine, gpu)}")


def _with_code(catalogue: Catalogue, machine: Machine, gpu: Gpu, release: Release) -> list[str]:
    """The CUDA builds of a release that have machine code for a GPU, newest first, whatever the driver."""
    alone = replace(machine, gpus=(gpu,), cuda=None, driver=None)  # nothing is known of it: PTX does not count
    verdicts = judge(
        catalogue=catalogue,
        machine=alone,
        declared=dict.fromkeys((*release.backends, *release.unconfirmed), release.torch),
    )
    return [v.backend.name for v in verdicts if v.has_code and set(v.refused_by) <= {"driver"}]


def _why_last(catalogue: Catalogue, backend: str, after: Release) -> str:
    """Why the release ``after`` has nothing for the GPU that ``backend`` has code for."""
    major = (catalogue.backend(backend).cuda or (0, 0))[0]
    cudas = [catalogue.backend(name).cuda for name in (*after.backends, *after.unconfirmed)]
    majors = sorted({cuda[0] for cuda in cudas if cuda is not None})
    minor = dotted(minor_of(after.torch) or (0, 0))
    own = f"no CUDA {major} build from {minor} on" if major not in majors else ""
    others = " and ".join(f"CUDA {other}" for other in majors)
    verb = "has" if len(majors) == 1 else "have"
    return ", and ".join(part for part in (own, f"{others} {verb} no code for it" if others else "") if part)


def _why_none(catalogue: Catalogue, machine: Machine, gpu: Gpu) -> str:
    rows = [row for backend in catalogue.backends.values() for row in backend.code]
    newest = max((number for row in rows for numbers in row.architectures.values() for number in numbers), default=0)
    if gpu.compute_capability > divmod(newest, 10):
        return "newer than every build that mlenv knows; a newer mlenv, or rows of [tool.mlenv.catalogue], may know one"
    also = "; NVIDIA has builds of its own for JetPack" if machine.jetson else ""
    return f"no torch that mlenv knows has code for it{also}"
