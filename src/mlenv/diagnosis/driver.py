"""The driver, its GPUs and the backend that this machine gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from mlenv.backend import Automatic, Choice, Named, choose, obstacles
from mlenv.catalogue import Catalogue
from mlenv.errors import NoBackendError
from mlenv.judgement import Target
from mlenv.machine import DRIVER_FAULTS, Machine, dotted
from mlenv.report import Area, Finding
from mlenv.values import dataclass

_UNUSABLE = "CUDA programs find no GPU, and a backend is not guessed"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a machine's backend is chosen by: ``declared`` maps each backend with an overlay to its torch.

    ``declared`` is empty outside a project; ``chosen`` is the backend of the settings, which ``said_by`` names;
    ``python`` is the target.
    """

    catalogue: Catalogue
    declared: Mapping[str, str | None] = field(default_factory=dict)
    chosen: str | None = None
    said_by: str | None = None
    python: str | None = None


def judge(by: Judged, machine: Machine, *, linux_drivers: Sequence[str] = ()) -> Area:
    """The machine's own findings and the backend it gets. ``linux_drivers`` are driver libraries that lie in WSL2.

    Raises ProjectError where the settings choose a backend without overlay.
    """
    findings = [*_own(machine), *_hidden(machine), *_in_wsl(machine, linux_drivers)]
    seen = _in_words(machine)
    if by.declared:
        choice = _choice(by, machine)
        if isinstance(choice, Choice):
            seen += f"; gets {choice.backend}" + (f" ({by.said_by} says so)" if by.said_by else "")
            told = {finding.message for finding in machine.findings}
            findings += [_note(note) for note in choice.notes if note not in told]
        elif machine.driver_fault is None:  # else it is told above
            findings.append(_none_fits(by, machine, choice))
    return Area(name="driver", seen=seen, findings=tuple(findings))


def backend_of(by: Judged, machine: Machine) -> str | None:
    """The backend that ``sync`` would take here without being told, or None. Raises ProjectError."""
    if not by.declared:
        return None
    choice = _choice(by, machine)
    return choice.backend if isinstance(choice, Choice) else None


def _choice(by: Judged, machine: Machine) -> Choice | NoBackendError:
    request = Named(backend=by.chosen, said_by=by.said_by) if by.chosen else Automatic()
    try:
        return choose(catalogue=by.catalogue, machine=machine, declared=by.declared, request=request, python=by.python)
    except NoBackendError as error:
        return error


def _own(machine: Machine) -> list[Finding]:
    return [
        replace(found, why=_UNUSABLE) if found.why is None and found.kind.startswith(DRIVER_FAULTS) else found
        for found in machine.findings
    ]


def _hidden(machine: Machine) -> list[Finding]:
    hidden = [str(gpu.index) for gpu in machine.gpus if not gpu.visible]
    if not hidden:
        return []
    message = f"CUDA_VISIBLE_DEVICES hides GPU {', '.join(hidden)}"
    hint = "`unset CUDA_VISIBLE_DEVICES` shows all of them"
    return [Finding(kind="gpu-hidden", message=message, hint=hint, severity="note")]


def _in_wsl(machine: Machine, libraries: Sequence[str]) -> list[Finding]:
    if not machine.wsl or not libraries:
        return []
    return [
        Finding(
            kind="wsl-linux-driver",
            message=f"a Linux driver of NVIDIA's is installed inside WSL2: {', '.join(libraries)}",
            why="it hides the driver of Windows in /usr/lib/wsl/lib, the only one that reaches the GPU",
            hint="remove it: `sudo apt-get purge 'libnvidia-*' 'nvidia-driver-*'`, then `wsl.exe --shutdown`",
            severity="warning",
        )
    ]


def _none_fits(by: Judged, machine: Machine, error: NoBackendError) -> Finding:
    target = Target(python=by.python)
    passed = obstacles(catalogue=by.catalogue, machine=machine, declared=by.declared, target=target)
    lines = [error.message.splitlines()[0], *(f"  {other}" for other in passed)]
    why = "`mlenv sync` stops unless it is told a backend"
    return Finding(kind="no-backend", message="\n".join(lines), why=why, hint=error.hint)


def _note(text: str) -> Finding:
    return Finding(kind="backend-note", message=text, severity="note")


def _in_words(machine: Machine) -> str:
    where = " (WSL2)" if machine.wsl else " (container)" if machine.container else ""
    cuda = f", up to CUDA {dotted(machine.cuda)}" if machine.cuda else ""
    driver = f"driver {machine.driver or 'number unknown'}{cuda}" if machine.driver or machine.cuda else "no driver"
    gpus = ", ".join(f"{gpu.name} ({dotted(gpu.compute_capability)})" for gpu in machine.gpus)
    return f"{machine.platform}{where}, {driver}, {gpus or 'no NVIDIA GPU'}"
