"""One set of Application pins that fits every overlay: a sound and complete search. Pure; the ``Solver`` asks uv.

The overlay with the oldest torch is resolved freely, the others are asked whether exactly those pins hold for them too
(the proof). Where one says no, a smallest set of pins that it can't have together is looked for: no common solution
holds all of them, so one after the other is ruled out for every overlay, and the search goes on (docs/adr/0007).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

from packaging.version import Version

from mlenv.errors import ConflictError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.resolution import Resolved

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
_WORKERS = 4


class Solver(Protocol):
    """Who knows what one overlay can have: its foundation and the requirements together, held to ``bounds``.

    ``bounds`` are constraints such as ``name!=1.0``; ``pins`` hold a package to its version where it is needed at all.
    Each method that returns a resolution raises ConflictError where there is none, and nothing else for that reason.
    """

    def resolve(self, overlay: Overlay, *, bounds: tuple[str, ...]) -> Resolved:
        """The resolution that is wanted: the pins of before are kept where they fit."""
        ...

    def announce(self, overlays: Sequence[Overlay]) -> None:
        """These are proven next, side by side."""
        ...

    def prove(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...]) -> Resolved:
        """The resolution with exactly these pins, and what else this overlay needs."""
        ...

    def probe(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...] = ()) -> Resolved:
        """Any resolution: a question on the way, whose answer is not kept."""
        ...

    def objection(self, overlay: Overlay, requirement: str) -> str | None:
        """Why the overlay can't have a requirement, in words, or None where it can."""
        ...


@dataclass
class _Search:
    """One search: who is asked, in which order, and what to call when it is interrupted."""

    order: Sequence[Overlay]
    solver: Solver
    interrupted: Callable[[], None]
    clashes: list[str] = field(default_factory=list)

    def run(self, bounds: tuple[str, ...]) -> dict[str, Resolved]:
        """A common solution within the bounds. Raises ConflictError where there is none."""
        first, *others = self.order
        lead = self.solver.resolve(first, bounds=bounds)
        found = {first.backend: lead}
        pins = {pin.name: pin for pin in lead.application}
        waiting = others
        while waiting:
            for overlay, answer in self._prove(waiting, tuple(pins.values()), bounds):
                if isinstance(answer, ConflictError):
                    return self._branch(overlay, tuple(pins.values()), bounds, answer)
                found[overlay.backend] = answer
                if all(pins.get(pin.name, pin).version == pin.version for pin in answer.application):
                    pins |= {pin.name: pin for pin in answer.application if pin.name not in pins}
                    waiting = [other for other in waiting if other is not overlay]
        return found

    def _prove(
        self, overlays: Sequence[Overlay], pins: tuple[Pin, ...], bounds: tuple[str, ...]
    ) -> list[tuple[Overlay, Resolved | ConflictError]]:
        """Each overlay's resolution with exactly these pins, or why there is none; side by side."""

        def prove(overlay: Overlay) -> Resolved | ConflictError:
            try:
                return self.solver.prove(overlay, bounds=bounds, pins=pins)
            except ConflictError as error:
                return error

        self.solver.announce(overlays)
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            try:
                return list(zip(overlays, pool.map(prove, overlays), strict=True))
            except BaseException as error:
                if not isinstance(error, Exception):  # nobody waits for the others any more
                    self.interrupted()
                raise

    def _branch(
        self, overlay: Overlay, pins: tuple[Pin, ...], bounds: tuple[str, ...], why: ConflictError
    ) -> dict[str, Resolved]:
        """Go on without one of the pins that the overlay can't have together; each in turn, until one way works out."""
        asked: dict[frozenset[str], bool] = {}

        def excluded(chosen: Sequence[Pin]) -> bool:
            key = frozenset(pin.name for pin in chosen)
            if key not in asked:
                asked[key] = self._refused(overlay, bounds=bounds, pins=tuple(chosen))
            return asked[key]

        free = self.solver.probe(overlay, bounds=bounds)  # where it has no solution of its own, there is none at all
        core = smallest(excluded, _likely_first(pins, free, why))
        last = why
        for pin in core:
            self.clashes.append(pin.name)
            try:
                return self.run((*bounds, self._bound(overlay, pin, bounds, alone=len(core) == 1)))
            except ConflictError as error:
                last = error
        raise last

    def _bound(self, overlay: Overlay, pin: Pin, bounds: tuple[str, ...], *, alone: bool) -> str:
        """What rules the pin out: its version, or from the second time on whatever is as impossible next to it."""
        exact = f"{pin.name}!={pin.version}"  # beside >= and <= it leaves post-releases and pre-releases in
        if not alone or not any(_name_of(bound) == pin.name for bound in bounds):
            return exact
        below = (*bounds, f"{pin.name}<={pin.version},!={pin.version}")
        try:
            fitting = self.solver.probe(overlay, bounds=below).pins.get(pin.name)
        except ConflictError:
            return f"{pin.name}>={pin.version},!={pin.version}"
        if fitting is None or fitting.version is None or self._exists_above(overlay, pin, bounds):
            return exact
        between = (*below, f"{pin.name}>={fitting.version},!={fitting.version}")
        return f"{pin.name}<={fitting.version}" if self._refused(overlay, bounds=between) else exact

    def _exists_above(self, overlay: Overlay, pin: Pin, bounds: tuple[str, ...]) -> bool:
        """Whether a release above the pin could be part of a common solution still."""
        above = (*bounds, f"{pin.name}>={pin.version},!={pin.version}")
        return not any(self._refused(each, bounds=above) for each in (self.order[0], overlay))

    def _refused(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...] = ()) -> bool:
        try:
            self.solver.probe(overlay, bounds=bounds, pins=pins)
        except ConflictError:
            return True
        return False


def agree(
    overlays: Iterable[Overlay], *, solver: Solver, interrupted: Callable[[], None] = lambda: None
) -> dict[str, Resolved]:
    """One set of Application pins that holds for every overlay: the resolution of each backend with it.

    Finds one wherever there is one. Raises ConflictError that names a package on which the overlays can't agree, and
    each side's objection to what the other takes; ``interrupted`` is called where the search is.
    """
    order = sorted(overlays, key=_torch_age)
    search = _Search(order=order, solver=solver, interrupted=interrupted)
    try:
        return search.run(())
    except ConflictError as error:
        if not search.clashes:
            raise  # one overlay has no solution of its own
        raise _clash(order, search.clashes, solver) from error


def smallest(excluded: Callable[[Sequence[Pin]], bool], pins: Sequence[Pin]) -> tuple[Pin, ...]:
    """A smallest part of ``pins`` that is ``excluded`` as a whole, none of them superfluous; ``pins`` are excluded.

    The likely ones stand first. QuickXplain (Junker 2004): few questions where few pins matter.
    """
    likely = list(pins)
    size = 1
    while size < len(likely):  # the shortest beginning, doubled each time, that is excluded
        if excluded(likely[:size]):
            likely = likely[:size]
            break
        size *= 2
    return tuple(_explain(excluded, (), likely, asked=False)) if likely else ()


def _explain(
    excluded: Callable[[Sequence[Pin]], bool], held: tuple[Pin, ...], pins: Sequence[Pin], *, asked: bool
) -> list[Pin]:
    if asked and excluded(held):
        return []
    if len(pins) == 1:
        return list(pins)
    first, second = pins[: len(pins) // 2], pins[len(pins) // 2 :]
    of_second = _explain(excluded, (*held, *first), second, asked=bool(first))
    return [*_explain(excluded, (*held, *of_second), first, asked=bool(of_second)), *of_second]


def _likely_first(pins: Iterable[Pin], free: Resolved, error: ConflictError) -> list[Pin]:
    """The pins that can be ruled out; first those that the overlay alone would not take and the explanation names."""
    words = set(_NAME.findall(f"{error.message}\n{error.detail or ''}"))

    def doubt(pin: Pin) -> tuple[bool, bool, str]:
        own = free.pins.get(pin.name)
        return (own is None or own.version == pin.version, pin.name not in words, pin.name)

    return sorted((pin for pin in pins if pin.version is not None), key=doubt)


def _name_of(bound: str) -> str:
    found = _NAME.match(bound)
    return found[0] if found else ""


def _clash(order: Sequence[Overlay], clashes: Iterable[str], solver: Solver) -> ConflictError:
    """The first package that two overlays can't agree on, with each one's reason against the other's release."""
    free = {overlay.backend: solver.probe(overlay, bounds=()) for overlay in order}
    names = tuple(dict.fromkeys(clashes))
    told = f"no single set of pins fits every backend (they can't agree on {', '.join(names)})"
    ways_out = _ways_out(order[0].backend)
    for name in names:
        versions = {b: pin.version for b, answer in free.items() if (pin := answer.pins.get(name)) and pin.version}
        for pair in combinations(versions, 2):
            reasons = _reasons(name, {backend: versions[backend] for backend in pair}, order, solver)
            if reasons:
                sides = ", ".join(f"{backend} takes {version}" for backend, version in sorted(versions.items()))
                told = f"no single set of pins fits every backend: of {name}, {sides}"
                return ConflictError("\n".join([told, *reasons]), hint=_ways_out(pair[0]))
    return ConflictError(told, hint=ways_out)


def _reasons(name: str, versions: Mapping[str, str], order: Sequence[Overlay], solver: Solver) -> tuple[str, ...]:
    """What each of two backends has against the other's release; empty where one of them has nothing."""
    if len(set(versions.values())) == 1:
        return ()
    others = dict(zip(versions, reversed(tuple(versions.values())), strict=True))
    pair = [overlay for overlay in order if overlay.backend in versions]
    told = [solver.objection(overlay, f"{name}=={others[overlay.backend]}") for overlay in pair]
    return tuple(reason for reason in told if reason) if all(told) else ()


def own_lock(backend: str) -> str:
    """The setting that gives a backend a lock of its own."""
    return f'[tool.mlenv.backends.{backend}] lock = "requirements.{backend}.txt"'


def _ways_out(backend: str) -> str:
    return (
        f'leave one out of the proof: [tool.mlenv] unproven = ["{backend}"]; give it a lock of its own: '
        f"{own_lock(backend)}; or move its torch in constraints/"
    )


def _torch_age(overlay: Overlay) -> tuple[Version, str]:
    return (Version(overlay.torch_version or "0"), overlay.backend)
