"""``mlenv detect``: what this machine is, which backend it gets, and why each other one was passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mlenv import outlook
from mlenv.backend import OF_PROJECT, Automatic, Named, Request, choose, newest_builds, obstacles
from mlenv.catalogue import Catalogue
from mlenv.errors import MlenvError, NoBackendError
from mlenv.judgement import Judgement, Target, judge
from mlenv.machine import Gpu, Machine, dotted
from mlenv.report import Finding, Outcome
from mlenv.values import dataclass

UNGUESSED = "CI is set and no GPU is visible: `mlenv sync` guesses no backend here; name one (--cpu, --backend B)"
NO_OVERLAYS = "there are no overlays here yet; judged by the newest releases mlenv knows (`mlenv init` writes overlays)"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What ``detect`` is asked: for which machine, among which overlays, for which Python, and how much to tell.

    ``environment`` is the foundation that is installed there, told as it is. ``unguessed``: ``sync`` wants to be told.
    """

    catalogue: Catalogue
    machine: Machine
    declared: Mapping[str, str | None]
    request: Request
    python: str | None = None
    why: bool = False
    unguessed: bool = False
    findings: tuple[Finding, ...] = ()
    environment: Mapping[str, Any] | None = None

    @property
    def judged(self) -> Mapping[str, str | None]:
        """What is judged: the project's overlays; where it has none, the newest build of each backend."""
        return self.declared or newest_builds(self.catalogue, python=self.python)


def detect(asked: Question) -> Outcome:
    """The machine, the backend that it gets, and what would come next.

    The machine is shown even where no backend fits; the exit status is then 4. ``asked.findings`` are shown with the
    machine's. Raises ProjectError for a backend without an overlay.
    """
    machine = asked.machine
    notes: tuple[str, ...] = () if asked.declared else (NO_OVERLAYS,)
    notes += (UNGUESSED,) if asked.unguessed and isinstance(asked.request, Automatic) else ()
    found = (*machine.findings, *asked.findings)
    try:
        choice = choose(
            catalogue=asked.catalogue,
            machine=machine,
            declared=asked.judged,
            request=asked.request,
            python=asked.python,
            among=OF_PROJECT if asked.declared else "of mlenv's catalogue",
        )
    except NoBackendError as error:
        return _nothing(asked, error, notes, found)
    told = {finding.message for finding in machine.findings}  # shown as findings
    choice = replace(choice, notes=(*(note for note in choice.notes if note not in told), *notes))
    return _outcome(asked, [("backend", choice.backend)], choice.as_json(), findings=found)


def _nothing(asked: Question, error: MlenvError, notes: tuple[str, ...], found: tuple[Finding, ...]) -> Outcome:
    passed = obstacles(
        catalogue=asked.catalogue,
        machine=asked.machine,
        declared=asked.judged,
        target=Target(python=asked.python),
    )
    if isinstance(asked.request, Named):
        passed = tuple(other for other in passed if other.backend == asked.request.backend)
    reason = error.message.splitlines()[0]
    told = {
        "backend": None,
        "reasons": [reason],
        "passed_over": [vars(other) for other in passed],
        "notes": list(notes),
    }
    finding = Finding(kind="no-backend", message=reason, hint=error.hint)
    fault = asked.machine.driver_fault
    if fault is not None and fault.message in reason:  # it is told once
        found = tuple(one for one in found if one != fault)
    return _outcome(asked, [("backend", "none")], told, findings=(*found, finding), exit_code=int(error.code))


def _outcome(
    asked: Question,
    head: list[tuple[str, str]],
    told: dict[str, Any],
    *,
    findings: tuple[Finding, ...],
    exit_code: int = 0,
) -> Outcome:
    """The machine and what is told of its backend, as a table and as JSON."""
    machine = asked.machine
    coming = outlook.coming(asked.catalogue, machine, chosen=told["backend"], target=Target(python=asked.python))
    rows = [*_machine_rows(machine), *head, *_rows("because", told["reasons"])]
    rows += _rows("passed over", (f"{other['backend']}: {other['reason']}" for other in told["passed_over"]))
    rows += [*_rows("note", told["notes"]), *_rows("next", (step.message for step in coming))]
    data = {"machine": machine.as_json(), "platform": machine.platform, **told, "next": [vars(step) for step in coming]}
    if asked.environment is not None:
        data["environment"] = asked.environment
    text = _table(rows)
    if asked.why:
        judged = judge(
            catalogue=asked.catalogue, machine=machine, declared=asked.judged, target=Target(python=asked.python)
        )
        text += "".join(f"\n\n{_reasoning(one)}" for one in judged)
        data["why"] = [one.as_json() for one in judged]
    return Outcome(text=text, data=data, findings=findings, exit_code=exit_code)


def _reasoning(judged: Judgement) -> str:
    """Each criterion of one backend, its verdict and where the fact comes from."""
    torch = f" (torch {judged.torch})" if judged.torch else ""
    rows = [(one.name, one.verdict, one.text + (f"  [{one.source}]" if one.source else "")) for one in judged.criteria]
    lines = [f"  {name:<18}  {verdict:<7}  {text}" for name, verdict, text in rows]
    return "\n".join([f"{judged.backend.name}{torch}", *lines])


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    where = [word for word, true in (("WSL2", machine.wsl), ("container", machine.container)) if true]
    platform = machine.platform + (f" ({', '.join(where)})" if where else "")
    cuda = f", up to CUDA {dotted(machine.cuda)}" if machine.cuda else ""
    driver = f"{machine.driver or 'number unknown'}{cuda}" if machine.driver or machine.cuda else "none"
    gpus = [(f"GPU {gpu.index}", _gpu_in_words(gpu)) for gpu in machine.gpus] or [("GPU", "none")]
    return [("platform", platform), ("driver", driver), *gpus]


def _gpu_in_words(gpu: Gpu) -> str:
    memory = f", {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else ""
    hidden = "" if gpu.visible else " (hidden by CUDA_VISIBLE_DEVICES)"
    return f"{gpu.name}, compute capability {dotted(gpu.compute_capability)}{memory}{hidden}"


def _rows(title: str, lines: Iterable[str]) -> list[tuple[str, str]]:
    """One row a line, the title on the first."""
    return [(title if place == 0 else "", line) for place, line in enumerate(lines)]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    listed = list(rows)
    width = max(len(title) for title, _ in listed)
    return "\n".join(f"{title:<{width}}  {text}".rstrip() for title, text in listed)
