"""Put the search for common pins to uv: one platform's overlays, resolved and proven."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace

from packaging.requirements import Requirement

from mlenv import agreement, lockfile, resolution, solve
from mlenv.errors import MlenvError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.resolution import Resolved
from mlenv.solve import Question
from mlenv.system import process
from mlenv.system.uv import Upgrade, Uv
from mlenv.values import dataclass

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prover:
    """What is asked for one platform: ``question`` is the same for each backend, ``upgrade`` says which pins may move.

    ``seconds`` collects what each backend took last.
    """

    project: Project
    uv: Uv
    platform: str
    question: Question
    upgrade: Upgrade
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def agree(self, overlays: Sequence[Overlay]) -> Mapping[str, Resolved]:
        """Each backend's resolution with pins that are the same for all. Raises ConflictError where there are none."""
        return agreement.agree(overlays, solver=self, interrupted=process.stop)

    def resolve(self, overlay: Overlay, *, bounds: tuple[str, ...]) -> Resolved:
        """See ``agreement.Solver``."""
        within = f" with {', '.join(bounds)}" if bounds else ""
        self.progress(f"resolving for {self._called(overlay)}{within}")
        return self._timed(overlay, replace(self.question, bounds=bounds, upgrade=self.upgrade), self.uv)

    def announce(self, overlays: Sequence[Overlay]) -> None:
        """See ``agreement.Solver``."""
        for overlay in overlays:
            self.progress(f"proving {self._called(overlay)}")

    def prove(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...]) -> Resolved:
        """See ``agreement.Solver``.

        The cache has just seen all of it; it may be older than the index, so it counts where it brings nothing new.
        """
        held = replace(self.question, bounds=bounds, pins=pins, upgrade=_exact(self.upgrade))
        known = {(pin.name, pin.version) for pin in (*pins, *lockfile.parse_pins(held.seed))}
        try:
            answer = self._timed(overlay, replace(held, fall_back=False), replace(self.uv, offline=True))
        except MlenvError:
            return self._timed(overlay, held, self.uv)
        unseen = {(pin.name, pin.version) for pin in answer.application} - known
        return self._timed(overlay, held, self.uv) if unseen and not self.uv.offline else answer

    def probe(self, overlay: Overlay, *, bounds: tuple[str, ...], pins: tuple[Pin, ...] = ()) -> Resolved:
        """See ``agreement.Solver``."""
        asked = replace(
            self.question, seed="", bounds=bounds, pins=pins, upgrade=_exact(self.upgrade), with_files=False
        )
        return self._timed(overlay, asked, self.uv)

    def objection(self, overlay: Overlay, requirement: str) -> str | None:
        """See ``agreement.Objection``."""
        files = {**self.question.files, resolution.CLASH_FILE: f"{requirement}\n"}
        sources = (*self.question.sources, resolution.CLASH_FILE)
        asked = replace(self.question, files=files, sources=sources, seed="", with_files=False)
        try:  # a yes from the cache is enough
            self._timed(overlay, replace(asked, fall_back=False), replace(self.uv, offline=True))
        except MlenvError:
            return self._refusal(overlay, asked)
        return None

    def _refusal(self, overlay: Overlay, asked: Question) -> str | None:
        try:
            self._timed(overlay, asked, self.uv)
        except ResolutionError as error:
            return error.message
        return None

    def _called(self, overlay: Overlay) -> str:
        several = len(self.project.settings.platforms) > 1
        return f"{overlay.backend} on {self.platform}" if several else overlay.backend

    def _timed(self, overlay: Overlay, asked: Question, how: Uv) -> Resolved:
        start = time.perf_counter()
        try:
            return solve.resolve_backend(self.project, how, overlay, asked, platform=self.platform)
        finally:
            self.seconds[overlay.backend] = time.perf_counter() - start


def _exact(upgrade: Upgrade) -> Upgrade:
    """The versions that were asked for: unlike a mere leave to move, they hold for every backend."""
    return Upgrade(packages=tuple(text for text in upgrade.packages if Requirement(text).specifier))
