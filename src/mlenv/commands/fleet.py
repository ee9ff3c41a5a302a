"""``mlenv fleet check``: choose the backend of each described machine, prove the lock for it, and certify that."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlenv import certificate as certificate_module
from mlenv import drift, machine, planning, record
from mlenv.backend import Choice, Request, choose, parse_request
from mlenv.certificate import Certificate, Verdict
from mlenv.errors import (
    EnvironmentBuildError,
    ExitCode,
    FindingError,
    MlenvError,
    NoBackendError,
    PackageIndexError,
    ProjectError,
    UsageError,
)
from mlenv.judgement import uncovered
from mlenv.lockfile import digest
from mlenv.machine import Machine
from mlenv.overlay import meaning
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.selection import own_backend
from mlenv.system import process
from mlenv.system.files import write_atomically
from mlenv.system.uv import Uv
from mlenv.textfile import read_text

CERTIFICATE = "fleet-certificate.json"
Progress = Callable[[str], None]


def check(project: Project, uv: Uv, *, files: Sequence[Path], output: Path, progress: Progress) -> Outcome:
    """A table of what each machine gets, and the certificate, written to ``output``.

    ``files`` are what ``mlenv detect --json`` printed; none: those of the certificate that is there. Exit status 1
    where the lock doesn't hold on a machine, 8 where the certificate can't be written. Raises FindingError for a stale
    lock, ProjectError for a bad file.
    """
    _require_free(output)
    machines = _machines(project, files, output)
    _require_current(project)
    choices = {name: _chosen(project, seen) for name, seen in machines.items()}
    proofs = _proofs(project, uv, machines, choices, progress=progress)
    verdicts = tuple(_verdict(project, name, machines[name], choices[name], proofs) for name in machines)
    made = Certificate(inputs=_inputs(project, machines), verdicts=verdicts)
    left = _left_out(project, machines, output)
    unwritten = _write(output, certificate_module.render(made), shown=_shown(project, output))
    bad = [verdict for verdict in verdicts if not verdict.good]
    told = [f"note: {verdict.file}: {note}" for verdict in verdicts for note in verdict.notes]
    lines = [
        *_table(verdicts),
        "",
        *told,
        f"{len(verdicts) - len(bad)} of {len(verdicts)} machines are served by this lock",
    ]
    lines += [] if unwritten else [f"certificate: {_shown(project, output)}"]
    findings = (*left, *(_finding(verdict) for verdict in bad), *unwritten)
    data = {"certificate": str(output), "machines": [_data(verdict) for verdict in verdicts], "inputs": made.inputs}
    code = ExitCode.ENVIRONMENT if unwritten else ExitCode.FINDING if bad else ExitCode.DONE
    return Outcome(text="\n".join(lines), data=data, findings=findings, exit_code=code)


def check_certificate(project: Project, *, files: Sequence[Path], output: Path) -> Outcome:
    """Whether the certificate still holds, by digests alone: offline, nothing resolved, nothing written."""
    shown = _shown(project, output)
    text = read_text(output, shown=shown)
    if text is None:
        message = "there is no certificate of the fleet"
        hint = "`mlenv fleet check FILES` writes it"
        return _told((Finding(kind="certificate-missing", message=message, path=shown, hint=hint),), shown)
    known = certificate_module.parse(text, path=shown)
    described = _described(project, files or [project.root / name for name in known.files], missing_ok=not files)
    stale_locks = tuple(finding for part in project.locks for finding in drift.check_lock(part))
    named = [_shown(project, path) for path in files]
    findings = certificate_module.stale(known, _inputs(project, described), path=shown, named=named)
    return _told((*stale_locks, *findings), shown, count=len(known.verdicts))


def _told(findings: tuple[Finding, ...], shown: str, *, count: int = 0) -> Outcome:
    text = "" if findings else f"{shown} is current ({count} machines)"
    return Outcome(text=text, data={"current": not findings}, findings=findings, exit_code=1 if findings else 0)


def _machines(project: Project, files: Sequence[Path], output: Path) -> dict[str, Machine]:
    known = [] if files else [project.root / name for name in _certified(project, output)]
    if not files and not known:
        raise UsageError("no machines were named", hint="`mlenv fleet check fleet/*.json`, each from `mlenv detect`")
    found = _described(project, files or known, missing_ok=not files)
    if not found:
        raise UsageError("none of these files describes a machine", hint="`mlenv detect --json > fleet/NAME.json`")
    return found


def _certified(project: Project, output: Path) -> tuple[str, ...]:
    """The machines' files that the certificate names; none without a certificate. Raises ProjectError."""
    shown = _shown(project, output)
    text = read_text(output, shown=shown)
    return () if text is None else certificate_module.parse(text, path=shown).files


def _left_out(project: Project, machines: Collection[str], output: Path) -> tuple[Finding, ...]:
    """A note for each machine that the certificate named until now."""
    try:
        before = _certified(project, output)
    except ProjectError:  # whatever stands there, it is made anew
        return ()
    gone = [name for name in before if name not in machines]
    told = [(name, "was not named" if (project.root / name).exists() else "is gone") for name in gone]
    return tuple(
        Finding(kind="machine-left-out", message=f"{name} {why} and leaves the certificate", severity="note")
        for name, why in told
    )


def _require_free(output: Path) -> None:
    """Raise UsageError where ``output`` can't be, or is something else than a certificate: that would be lost."""
    if not output.parent.is_dir():
        message = f"--certificate {output}: there is no folder {output.parent}"
        raise UsageError(message, hint="make it, or name a file in a folder that is there")
    if output.exists() and not (output.is_file() and certificate_module.was_certificate(output.read_bytes())):
        message = f"--certificate {output} is there and is no certificate: it would be overwritten"
        raise UsageError(message, hint="name another file")


def _write(output: Path, text: str, *, shown: str) -> tuple[Finding, ...]:
    """Write the certificate where it differs; a finding where that can't be done: the verdicts are worth showing."""
    try:
        if read_text(output, shown=shown) != text:
            write_atomically(output, text)
    except EnvironmentBuildError as error:
        return (Finding(kind="certificate-unwritten", message=error.message, path=shown, hint=error.hint),)
    return ()


def _described(project: Project, files: Sequence[Path], *, missing_ok: bool) -> dict[str, Machine]:
    """file → machine; a folder stands for its .json files. Certificates are passed over, as a glob finds them, too.

    Raises ProjectError, which tells of every file that can't be used.
    """
    found: dict[str, Machine] = {}
    errors: list[ProjectError] = []
    listed = [inner for given in files for inner in (sorted(given.glob("*.json")) if given.is_dir() else [given])]
    for path in listed:
        name = _shown(project, path)
        try:
            seen = _read(path, name, missing_ok=missing_ok)
        except ProjectError as error:
            errors.append(error)
            continue
        if seen is not None:
            found[name] = seen
    if len(errors) > 1:
        told = "\n".join(f"  {error}" for error in errors)
        raise ProjectError(f"{len(errors)} of the machines' files can't be used:\n{told}", hint=errors[0].hint)
    if errors:
        raise errors[0]
    return found


def _read(path: Path, name: str, *, missing_ok: bool) -> Machine | None:
    """The machine in a file; None for a certificate, or for no file where that is all right. Raises ProjectError."""
    text = read_text(path, shown=name, utf16=True)
    if text is None and not missing_ok:
        raise ProjectError("there is no such file", path=name, hint="`mlenv detect --json` writes one")
    if text is None or certificate_module.is_certificate(text):
        return None
    return machine.parse(text, path=name)


def _chosen(project: Project, seen: Machine) -> Choice | MlenvError:
    """The backend a machine gets, from the setting or from what it is; the error where it gets none."""
    request: Request = parse_request(own_backend(project))
    declared = {name: overlay.torch_version for name, overlay in project.overlays.items()}
    try:
        return choose(
            catalogue=project.catalogue,
            machine=seen,
            declared=declared,
            request=request,
            python=project.target_python[0],
        )
    except (NoBackendError, ProjectError) as error:
        return error


def _proofs(
    project: Project,
    uv: Uv,
    machines: Mapping[str, Machine],
    choices: Mapping[str, Choice | MlenvError],
    *,
    progress: Progress,
) -> dict[tuple[str, str], MlenvError | tuple[str, ...]]:
    """(backend, platform) → why foundation and lock don't resolve together there; notes on their proof if they do.

    Raises PackageIndexError and EnvironmentBuildError: where nothing can be asked, nothing is proven or refuted.
    """
    wanted = dict.fromkeys(
        (choice.backend, machines[name].platform) for name, choice in choices.items() if isinstance(choice, Choice)
    )
    if wanted:
        progress(f"proving the lock for {', '.join(f'{backend} on {platform}' for backend, platform in wanted)}")

    def prove(backend: str, platform: str) -> MlenvError | tuple[str, ...]:
        try:
            return _prove(project.of_lock(backend), uv, backend, platform)
        except (PackageIndexError, EnvironmentBuildError):  # our own trouble says nothing of a machine
            raise
        except MlenvError as error:
            return error

    with ThreadPoolExecutor(max_workers=4) as pool:
        try:
            return dict(zip(wanted, pool.map(lambda pair: prove(*pair), wanted), strict=True))
        except BaseException:
            process.stop()
            raise


def _prove(project: Project, uv: Uv, backend: str, platform: str) -> tuple[str, ...]:
    """Raise where the lock's very pins and the backend's foundation don't resolve together on the platform.

    Returns what is worth saying about the proof: that another build's metadata stood in, for one.
    """
    header = project.lock.header if project.lock is not None else None
    if header is not None and platform not in header.platforms:
        raise ProjectError(
            f"the lock is made for {', '.join(header.platforms)}, not for {platform}",
            hint=f'add "{platform}" to [tool.mlenv] platforms, then `mlenv lock`',
        )
    target = planning.Target(backend=backend, platform=platform, stand_in=True)
    return planning.resolve(project, uv, target, record=project.record(backend)).notes


def _verdict(
    project: Project,
    name: str,
    seen: Machine,
    choice: Choice | MlenvError,
    proofs: Mapping[tuple[str, str], MlenvError | tuple[str, ...]],
) -> Verdict:
    cards = tuple(f"{gpu.name} ({machine.dotted(gpu.compute_capability)})" for gpu in seen.visible_gpus)
    if not isinstance(choice, Choice):
        return Verdict(file=name, platform=seen.platform, cards=cards, problems=tuple(choice.message.splitlines()))
    torch = project.overlay(choice.backend).torch_version
    proof = proofs[choice.backend, seen.platform]
    gap = uncovered(catalogue=project.catalogue, machine=seen, backend=choice.backend, torch=torch) if torch else None
    problems, notes = ([str(proof)], ()) if isinstance(proof, MlenvError) else ([], proof)
    return Verdict(
        file=name,
        platform=seen.platform,
        cards=cards,
        backend=choice.backend,
        torch=torch,
        reasons=choice.reasons,
        notes=(*choice.notes, *notes),
        problems=(*problems, *([gap] if gap else [])),
        hint=proof.hint if isinstance(proof, MlenvError) else None,
    )


def _inputs(project: Project, machines: Mapping[str, Machine]) -> dict[str, str]:
    """Everything that a verdict depends on, by name; mlenv's own catalogue comes with mlenv and is not among it."""
    found = {name: certificate_module.machine_digest(seen) for name, seen in machines.items()}
    found |= {overlay.path: digest(meaning(overlay)) for overlay in project.overlays.values()}
    for backend in project.overlays:
        if (recorded := project.record(backend)) is not None:
            found[recorded.path] = digest(record.digest_text(recorded))
    for part in project.locks:
        found[part.settings.lock] = digest(part.lock_text or "")
    found["settings"] = digest(f"{drift.settings(project)} {own_backend(project)}")
    return found


def _require_current(project: Project) -> None:
    stale = [finding for part in project.locks for finding in drift.check_lock(part)]
    if stale:
        told = "\n".join(f"  {finding}" for finding in stale[:6])
        raise FindingError(f"the lock is not current:\n{told}", hint=stale[0].hint or drift.RELOCK)


def _finding(verdict: Verdict) -> Finding:
    hint = verdict.hint or f"`mlenv detect --why --machine {shlex.quote(verdict.file)}`"
    return Finding(kind="machine-unfit", message=verdict.problems[0], path=verdict.file, hint=hint)


def _table(verdicts: Iterable[Verdict]) -> list[str]:
    rows = [("machine", "platform", "cards", "backend", "torch", "verdict")]
    for verdict in verdicts:
        cards = ", ".join(dict.fromkeys(verdict.cards)) or "no GPU"
        words = "good" if verdict.good else "bad"
        rows.append((verdict.file, verdict.platform, cards, verdict.backend or "none", verdict.torch or "-", words))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _data(verdict: Verdict) -> dict[str, Any]:
    return {**vars(verdict), "verdict": "good" if verdict.good else "bad"}


def _shown(project: Project, path: Path) -> str:
    absolute = Path(os.path.normpath(path.absolute()))
    root = project.root.absolute()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else str(path)
