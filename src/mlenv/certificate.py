"""A fleet's certificate: for which machines a lock was proven, and from which inputs. Pure.

Whether it still holds is told by digests alone, offline: no machine is judged and nothing is resolved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlenv.errors import ProjectError
from mlenv.lockfile import digest
from mlenv.machine import Machine
from mlenv.report import Finding

SCHEMA = 1
AGAIN = "`mlenv fleet check`"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one machine gets. ``problems`` are why the lock does not hold there; none: it does.

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

    @property
    def good(self) -> bool:
        """Whether the lock holds on this machine."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The verdicts, and the digest of everything that they were made from by name."""

    inputs: Mapping[str, str]
    verdicts: tuple[Verdict, ...]

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
    document = {
        "mlenv-fleet-certificate": SCHEMA,
        "inputs": dict(sorted(certificate.inputs.items())),
        "machines": machines,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def is_certificate(text: str) -> bool:
    """Whether a file is a certificate rather than the description of a machine."""
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return isinstance(document, dict) and "mlenv-fleet-certificate" in document


def parse(text: str, *, path: str) -> Certificate:
    """The certificate in a file. Raises ProjectError where it is none."""
    try:
        document = json.loads(text)
        if document["mlenv-fleet-certificate"] > SCHEMA:
            raise ProjectError("was written by a newer mlenv", path=path, hint="upgrade mlenv")
        return Certificate(
            inputs={str(name): str(value) for name, value in document["inputs"].items()},
            verdicts=tuple(_verdict(entry) for entry in document["machines"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"is no certificate: {error}", path=path, hint=f"write it anew: {AGAIN} FILES") from error


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
    )


def stale(certificate: Certificate, inputs: Mapping[str, str], *, path: str) -> tuple[Finding, ...]:
    """Why the certificate no longer says anything: the inputs that changed, are new, or are gone; bad verdicts, too."""
    hint = f"run {AGAIN}"
    found = []
    for name in sorted({*certificate.inputs, *inputs}):
        then, now = certificate.inputs.get(name), inputs.get(name)
        if then != now:
            what = "is new" if then is None else "is gone" if now is None else "changed"
            message = f"the certificate is stale: {name} {what} since"
            found.append(Finding(kind="certificate-stale", message=message, path=path, hint=hint))
    bad = [verdict for verdict in certificate.verdicts if not verdict.good]
    found += [
        Finding(kind="machine-unfit", message=f"{verdict.file}: {verdict.problems[0]}", path=path, hint=hint)
        for verdict in bad
    ]
    return tuple(found)
