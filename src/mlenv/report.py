"""What a command found and did, as values; ``cli`` shows them as text or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, with the command or change that mends it.

    ``kind`` is a stable, hyphenated word for programs (``lock-input-changed``), ``path`` is relative to the
    project where it can be, ``line`` is 1-based, ``package`` is the one to blame where there is one.
    """

    kind: str
    message: str
    hint: str | None = None
    path: str | None = None
    line: int | None = None
    severity: Severity = "error"
    package: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values; fields that say nothing are left out."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        """The message with the place in front."""
        where = f"{self.path}:{self.line}: " if self.line is not None else f"{self.path}: " if self.path else ""
        return f"{where}{self.message}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command hands to ``cli``: text for people, the same as JSON for programs, findings, an exit status."""

    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    exit_code: int = 0
