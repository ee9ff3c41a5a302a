"""Whether the pinned foundation can be had: the files are looked for, not the status of an index (FACTS, CUDA 5)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import suppress
from dataclasses import dataclass

from mlenv import solve
from mlenv.errors import MlenvError, UnreachableError
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.report import Area, Finding
from mlenv.resolution import Resolved
from mlenv.solve import Question
from mlenv.system import process
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv

PATIENCE_SECONDS = 15.0
_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions that are being answered, one a backend; ``finish`` waits for the answers."""

    pool: ThreadPoolExecutor
    answers: Mapping[str, Future[Resolved]]
    since: float


def ask(project: Project, uv: Uv, *, platform: str) -> Asked:
    """Start to look for each backend's pinned roots where ``sync`` would. Raises ProjectError for unusable files."""
    overlays = [one for one in project.overlays.values() if _asked(project, one, platform)]
    for overlay in overlays:  # read here, once: threads share what is read lazily
        solve.sources_of(project, overlay, platform=platform, stand_in=False)
    _ = project.requirements, project.names
    question = Question(
        files={},
        sources=(),
        python=project.target_python[0],
        interpreter=uv_module.base_interpreter(),
        platform=platform,
        alone=True,
        with_files=False,
    )
    quick = uv_module.impatient(uv)
    pool = ThreadPoolExecutor(max_workers=_AT_A_TIME)
    answers = {
        one.backend: pool.submit(solve.resolve_backend, project, quick, one, question, platform=platform)
        for one in overlays
    }
    return Asked(pool=pool, answers=answers, since=time.monotonic())


def _asked(project: Project, overlay: Overlay, platform: str) -> bool:
    roots = overlay.roots(project.settings.foundation.roots)
    return bool(roots) and project.catalogue.builds_for(overlay.backend, platform)


def finish(asked: Asked, *, needed: str | None) -> Area:
    """The area, once every answer is there or patience is at its end. ``needed`` is the backend this machine gets."""
    found: list[Finding] = []
    told: list[str] = []
    try:
        for backend, answer in asked.answers.items():
            left = max(0.0, asked.since + PATIENCE_SECONDS - time.monotonic())
            word, findings = _answer(backend, answer, left, needed=backend == needed)
            told.append(f"{backend} {word}")
            found += findings
    finally:
        abandon(asked)
    return Area(name="indexes", seen=", ".join(told) or "no backend has a foundation here", findings=tuple(found))


def abandon(asked: Asked) -> None:
    """End what is still being asked; no process can be started after that."""
    if not all(answer.done() for answer in asked.answers.values()):
        process.stop()
    asked.pool.shutdown(wait=True, cancel_futures=True)


def _answer(backend: str, answer: Future[Resolved], seconds: float, *, needed: bool) -> tuple[str, Sequence[Finding]]:
    """(where it can be had, in a word or two; what is wrong)."""
    with suppress(TooLate):
        try:
            resolved = answer.result(timeout=seconds)
        except MlenvError as error:
            return _refusal(backend, error, needed=needed)
        notes = tuple(Finding(kind="index-note", message=note, severity="note") for note in resolved.notes)
        return f"from {resolved.source.index}", notes
    slow = UnreachableError(f"no answer in {PATIENCE_SECONDS:.0f} s", hint="check the network, or a proxy's settings")
    return _refusal(backend, slow, needed=needed)


def _refusal(backend: str, error: MlenvError, *, needed: bool) -> tuple[str, Sequence[Finding]]:
    """An index that isn't reached matters for the backend that this machine gets; a pin that is nowhere, always."""
    unreachable = _is_unreachable(error)
    finding = Finding(
        kind="index-unreachable" if unreachable else "index-without-pin",
        message=error.message if error.message.startswith(f"the foundation of {backend}") else f"{backend}: {error}",
        why=f"`mlenv sync --backend {backend}` would fail" + ("" if needed else "; this machine gets another one"),
        hint=error.hint,
        severity="error" if needed else "note" if unreachable else "warning",
    )
    return ("not reachable" if unreachable else "not carried"), (finding,)


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, UnreachableError):
            return True
        error = error.__cause__ or error.__context__
    return False
