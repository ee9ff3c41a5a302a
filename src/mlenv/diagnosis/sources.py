"""Whether the pinned foundation can be had: the files are looked for, not the status of an index (FACTS, CUDA 5)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import replace

from mlenv import solve
from mlenv.errors import MlenvError, ProjectError, UnreachableError
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.report import Area, Finding
from mlenv.resolution import Resolved
from mlenv.solve import Question
from mlenv.system import process
from mlenv.system import uv as uv_module
from mlenv.system.uv import Uv
from mlenv.values import dataclass

PATIENCE_SECONDS = 15.0
_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions that are being answered, one a backend; ``finish`` waits for the answers.

    ``unreachable`` has the hosts that did not answer, by backend, and is filled meanwhile.
    """

    pool: ThreadPoolExecutor
    answers: Mapping[str, Future[Resolved]]
    unreachable: Mapping[str, set[str]]
    since: float


def ask(project: Project, uv: Uv, *, platform: str) -> Asked:
    """Start to look for each backend's pinned roots where ``sync`` would. Raises ProjectError for unusable files."""
    overlays = [one for one in project.overlays.values() if _asked(project, one, platform)]
    _ = project.requirements, project.names, project.indexes, project.catalogue  # threads share what is read lazily
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
    questions = {one.backend: replace(question, unreachable=set()) for one in overlays}
    answers = {
        one.backend: pool.submit(solve.resolve_backend, project, quick, one, questions[one.backend], platform=platform)
        for one in overlays
    }
    unreachable = {backend: asked.unreachable for backend, asked in questions.items()}
    return Asked(pool=pool, answers=answers, unreachable=unreachable, since=time.monotonic())


def _asked(project: Project, overlay: Overlay, platform: str) -> bool:
    roots = overlay.roots(project.settings.foundation.roots)
    return bool(roots) and project.catalogue.builds_for(overlay.backend, platform)


def finish(asked: Asked, *, needed: str | None) -> Area:
    """The area, once every answer is there or patience is at its end. ``needed`` is the backend this machine gets."""
    found: list[Finding] = []
    told: list[str] = []
    try:
        for backend in asked.answers:
            left = max(0.0, asked.since + PATIENCE_SECONDS - time.monotonic())
            word, findings = _answer(asked, backend, left, needed=backend == needed)
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


def _answer(asked: Asked, backend: str, seconds: float, *, needed: bool) -> tuple[str, Sequence[Finding]]:
    """(where it can be had, in a word or two; what is wrong)."""
    error: MlenvError
    try:
        resolved = asked.answers[backend].result(timeout=seconds)
    except TooLate:
        error = UnreachableError(f"no answer in {PATIENCE_SECONDS:.0f} s", hint="check the network, or the proxy")
    except MlenvError as refused:
        error = refused
    else:
        notes = (Finding(kind="index-note", message=note, severity="note") for note in resolved.notes)
        return f"from {resolved.source.index}", tuple(notes)
    silent = sorted(asked.unreachable[backend])
    return _refusal(backend, error, unreachable=bool(silent) or _is_unreachable(error), silent=silent, needed=needed)


def _refusal(
    backend: str, error: MlenvError, *, unreachable: bool, silent: Sequence[str], needed: bool
) -> tuple[str, Sequence[Finding]]:
    """An index that isn't reached matters for the backend that this machine gets; a pin that is nowhere, always."""
    message = error.message if error.message.startswith(f"the foundation of {backend}") else f"{backend}: {error}"
    if silent and "can't be reached" not in message:  # the first source's answer; this is the next one's
        message += f"; {', '.join(silent)} can't be reached"
    kind = "index-unreachable" if unreachable else "index-without-pin"
    finding = Finding(
        kind="index-missing" if isinstance(error, ProjectError) else kind,
        message=message,
        why=f"`mlenv sync --backend {backend}` would fail" + ("" if needed else "; this machine gets another one"),
        hint=error.hint,
        severity="error" if needed else "note" if unreachable else "warning",
    )
    return ("not reachable" if unreachable else "not carried"), (finding,)


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, UnreachableError):
            return True
        error = error.__cause__
    return False
