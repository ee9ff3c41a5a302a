"""``mlenv detect``: what this machine is, which backend it gets, and why each other one was passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlenv.backend import Choice, Named, PassedOver, Request, choose, obstacles
from mlenv.catalogue import Catalogue
from mlenv.errors import MlenvError, NoBackendError
from mlenv.machine import Gpu, Machine, dotted
from mlenv.report import Finding, Outcome

NO_OVERLAYS = (
    "this project has no overlays yet; judged by the newest releases mlenv knows (`mlenv init` writes overlays)"
)


def detect(*, catalogue: Catalogue, machine: Machine, declared: Mapping[str, str | None], request: Request) -> Outcome:
    """The machine, and the backend that ``request`` gets on it.

    The machine is shown even where no backend fits; the exit status is then 4. Where the project declares none, the
    builds in the catalogue are judged. Raises ProjectError for a backend without an overlay.
    """
    judged = declared or _newest_builds(catalogue)
    notes = () if declared else (NO_OVERLAYS,)
    try:
        choice = choose(catalogue=catalogue, machine=machine, declared=judged, request=request)
    except NoBackendError as error:
        passed = obstacles(catalogue=catalogue, machine=machine, declared=judged)
        if isinstance(request, Named):
            passed = tuple(other for other in passed if other.backend == request.backend)
        return _nothing(machine, error, passed, notes)
    told = {found.message for found in machine.findings}  # shown as findings
    notes = (*(note for note in choice.notes if note not in told), *notes)
    rows = [*_machine_rows(machine), ("backend", choice.backend), *_rows("because", choice.reasons)]
    rows += [*_rows("passed over", map(str, choice.passed_over)), *_rows("note", notes)]
    return Outcome(text=_table(rows), data=_data(machine, choice, notes), findings=machine.findings)


def _nothing(machine: Machine, error: MlenvError, passed: tuple[PassedOver, ...], notes: tuple[str, ...]) -> Outcome:
    reason = error.message.splitlines()[0]
    rows = [*_machine_rows(machine), ("backend", "none"), ("because", reason)]
    rows += [*_rows("passed over", map(str, passed)), *_rows("note", notes)]
    data = {
        "machine": machine.as_json(),
        "platform": machine.platform,
        "backend": None,
        "reasons": [reason],
        "passed_over": [vars(other) for other in passed],
        "notes": list(notes),
    }
    finding = Finding(kind="no-backend", message=reason, hint=error.hint)
    return Outcome(text=_table(rows), data=data, findings=(*machine.findings, finding), exit_code=int(error.code))


def _data(machine: Machine, choice: Choice, notes: tuple[str, ...]) -> dict[str, Any]:
    return {"machine": machine.as_json(), "platform": machine.platform, **choice.as_json(), "notes": list(notes)}


def _newest_builds(catalogue: Catalogue) -> dict[str, str | None]:
    newest = {name: catalogue.newest_release(name) for name in catalogue.backends}
    return {name: release.torch for name, release in newest.items() if release is not None}


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
