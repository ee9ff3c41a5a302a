"""What an environment is to be, and the inputs that decide it: what has the same inputs holds the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv import drift, lockfile
from mlenv.overlay import meaning
from mlenv.project import Project
from mlenv.settings import Layout
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.plan import Plan

KEY_SCHEME = 2


class Verify(Enum):
    """How far the gate goes before a new environment is used."""

    AUTO = "auto"
    METADATA = "metadata"
    IMPORT = "import"
    GPU = "gpu"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the environment is to be. ``extras`` are personal additions (``--with``), for this environment only.

    With ``deep`` the gate hashes every file. For an ``image`` it is built where it stays; ``below`` is the foundation
    that its first layer holds, if that is there. ``bundle`` is the folder that
    everything comes from, instead of indexes.
    """

    backend: str
    interpreter: Path
    extras: tuple[str, ...] = ()
    verify: Verify = Verify.AUTO
    layout: Layout = "link"
    deep: bool = False
    image: bool = False
    below: Plan | None = None
    bundle: Path | None = None


def inputs_of(project: Project, wanted: Wanted, *, platform: str) -> dict[str, str]:
    """Everything that decides what the environment holds, each with its digest; no URL and no machine's name."""
    status = wanted.interpreter.resolve().stat()
    parts: dict[str, object] = {
        "python": [str(wanted.interpreter.resolve()), status.st_size, status.st_mtime_ns],
        "additions": sorted(wanted.extras),
        "local projects": [
            [local.line_for_uv(), local.content_digest] for local in project.requirements.local_projects
        ],
    }
    if wanted.layout != "link":
        parts["layout"] = wanted.layout
    return shared_inputs_of(project, wanted.backend, platform=platform) | _digests(parts)


def shared_inputs_of(project: Project, backend: str, *, platform: str) -> dict[str, str]:
    """The inputs that every machine of a platform shares, each with its digest."""
    parts: dict[str, object] = {
        "backend": backend,
        "overlay": meaning(project.overlay(backend)),
        "lock": lockfile.body_of(project.lock_text or ""),
        "platform": platform,
        "settings": [
            drift.settings(project),
            *drift.plugins(project).values(),
            *project.asked_of_foundation,
        ],
    }
    if project.channel != "stable":
        parts["channel"] = project.channel
    if (record := project.record(backend)) is not None:
        from mlenv.record import digest_text  # it imports much, and few projects have records

        parts["record"] = digest_text(record)
    return _digests(parts)


def _digests(parts: Mapping[str, object]) -> dict[str, str]:
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def key_of(inputs: Mapping[str, str]) -> str:
    """The digest of all inputs: environments with one key hold the same."""
    text = json.dumps({"scheme": KEY_SCHEME, **inputs}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
