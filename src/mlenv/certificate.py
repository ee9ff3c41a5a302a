"""A fleet's certificate: for which machines a lock was proven, and from which inputs. Pure.

Whether it still holds is told by digests alone, offline: no machine is judged and nothing is resolved.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlenv.errors import ProjectError
from mlenv.lockfile import digest
from mlenv.machine import Machine
from mlenv.report import Finding
from mlenv.textfile import conflict_line
from mlenv.values import dataclass

SCHEMA = 1
_FILE = r'"file": ("(?:[^"\\]|\\.)*")'


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one machine gets. ``problems`` are why the lock does not hold there; none: it does. ``hint`` mends them.

    ``file`` describes the machine (POSIX, relative to the project where it is inside), ``cards`` are its visible GPUs.
    """

    file: str
    platform: str
    cards: tuple[str, ...]
    backend: str | None = None
    torch: str | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    hint: str | None = None

    @property
    def good(self) -> bool:
        """Whether the lock holds on this machine."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The verdicts, and the digest of everything that they were made from by name.

    ``as_written``: nobody changed the file since mlenv wrote it.
    """

    inputs: Mapping[str, str]
    verdicts: tuple[Verdict, ...]
    as_written: bool = True

    @property
    def files(self) -> tuple[str, ...]:
        """The files that describe the machines."""
        return tuple(verdict.file for verdict in self.verdicts)


def machine_digest(machine: Machine) -> str:
    """The digest of what a description of a machine means, however it is written."""
    return digest(json.dumps(machine.as_json(), sort_keys=True))


def render(certificate: Certificate) -> str:
    """The text of the file: the same verdicts and inputs give the same bytes."""
    machines = [{**vars(v), "verdict": "good" if v.good else "bad"} for v in certificate.verdicts]
    document: dict[str, Any] = {
        "mlenv-fleet-certificate": SCHEMA,
        "inputs": dict(sorted(certificate.inputs.items())),
        "machines": machines,
    }
    document["digest"] = _own_digest(document)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _own_digest(document: Mapping[str, Any]) -> str:
    """The digest of everything else in the document, however it is written."""
    return digest(json.dumps({key: value for key, value in document.items() if key != "digest"}, sort_keys=True))


def is_certificate(text: str) -> bool:
    """Whether a file is a certificate rather than the description of a machine."""
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return isinstance(document, dict) and "mlenv-fleet-certificate" in document


def was_certificate(data: bytes) -> bool:
    """Whether a file is a certificate, or was one before a merge or a hand broke it; an empty file holds nothing."""
    return not data.strip() or b'"mlenv-fleet-certificate"' in data


def parse(text: str, *, path: str) -> Certificate:
    """The certificate in a file. Raises ProjectError where it is none."""
    hint = f"{again(_files_in(text))} writes it anew"
    if (line := conflict_line(text)) is not None:
        raise ProjectError("a conflict marker of git was left", path=path, line=line, hint=hint)
    try:
        document = json.loads(text)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise ProjectError("is not valid JSON", path=path, line=line, hint=hint) from error
    try:
        if document["mlenv-fleet-certificate"] > SCHEMA:
            raise ProjectError("was written by a newer mlenv", path=path, hint="upgrade mlenv")
        return Certificate(
            inputs={str(name): str(value) for name, value in document["inputs"].items()},
            verdicts=tuple(_verdict(entry) for entry in document["machines"]),
            as_written=document.get("digest") == _own_digest(document),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ProjectError("is no certificate of a fleet", path=path, hint=hint) from error


def again(files: Sequence[str]) -> str:
    """The command that makes the certificate, for hints; without files it takes those that the certificate names."""
    return f"`{' '.join(['mlenv fleet check', *map(shlex.quote, files)])}`"


def _files_in(text: str) -> list[str]:
    """What a file that may be no certificate any more says of its machines' files; FILES where it says nothing."""
    return list(dict.fromkeys(json.loads(name) for name in re.findall(_FILE, text))) or ["FILES"]


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    return Verdict(
        file=str(entry["file"]),
        platform=str(entry["platform"]),
        backend=entry["backend"],
        torch=entry["torch"],
        cards=tuple(entry["cards"]),
        reasons=tuple(entry["reasons"]),
        notes=tuple(entry["notes"]),
        problems=tuple(entry["problems"]),
        hint=entry.get("hint"),
    )


def stale(
    certificate: Certificate, inputs: Mapping[str, str], *, path: str, named: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """Why the certificate no longer says anything: it was changed itself, inputs changed, are new, or are gone.

    Bad verdicts, too. ``named`` are the files that the command line names in place of the certificate's own.
    """
    hint = f"run {again(named)}"
    told = [] if certificate.as_written else [("certificate-edited", "the certificate was changed outside mlenv")]
    told += [("certificate-stale", text) for text in _changes(certificate, inputs, named=bool(named))]
    told += [("machine-unfit", f"{v.file}: {v.problems[0]}") for v in certificate.verdicts if not v.good]
    return tuple(Finding(kind=kind, message=message, path=path, hint=hint) for kind, message in told)


def _changes(certificate: Certificate, inputs: Mapping[str, str], *, named: bool) -> Iterable[str]:
    """The inputs that differ, one sentence each."""
    for name in sorted({*certificate.inputs, *inputs}):
        then, now = certificate.inputs.get(name), inputs.get(name)
        if then != now:
            gone = "is in it and was not named" if named and name in certificate.files else "is gone since"
            what = "is new since" if then is None else gone if now is None else "changed since"
            yield f"the certificate is stale: {name} {what}"
