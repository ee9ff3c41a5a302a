"""What a command found and did, as values; ``cli`` shows them as text or as JSON."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from mlenv.values import dataclass

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, with the command or change that mends it.

    ``kind`` is a stable, hyphenated word for programs (``lock-input-changed``), ``path`` is relative to the
    project where it can be, ``line`` is 1-based, ``package`` is the one to blame where there is one, ``why`` says what
    it does to the user where the message doesn't.
    """

    kind: str
    message: str
    hint: str | None = None
    path: str | None = None
    line: int | None = None
    severity: Severity = "error"
    package: str | None = None
    why: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values; fields that say nothing are left out."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """The message with the place in front."""
        where = f"{self.path}:{self.line}: " if self.line is not None else f"{self.path}: " if self.path else ""
        return f"{where}{self.message}"


@dataclass(frozen=True, kw_only=True)
class Area:
    """One area that was looked at: what was seen there in a line, and what is wrong with it.

    ``skipped`` says that it was not looked at; ``seen`` then says why.
    """

    name: str
    seen: str
    findings: tuple[Finding, ...] = ()
    skipped: bool = False

    @property
    def state(self) -> str:
        """``error``, ``warning``, ``note``, ``skipped`` or ``ok``: the worst of it."""
        severities = {finding.severity for finding in self.findings}
        worst = next((word for word in ("error", "warning", "note") if word in severities), "ok")
        return "skipped" if self.skipped and not severities else worst

    def as_json(self) -> dict[str, Any]:
        """The area as JSON values."""
        findings = [finding.as_json() for finding in self.findings]
        return {"name": self.name, "state": self.state, "seen": self.seen, "findings": findings}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command hands to ``cli``: text for people, the same as JSON for programs, findings, an exit status.

    Where there are ``areas``, people see each finding below its area.
    """

    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    areas: tuple[Area, ...] = ()
    exit_code: int = 0
