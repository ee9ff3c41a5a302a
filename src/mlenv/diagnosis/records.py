"""Records as they lie there: whether each can be read, fits its overlay and the lock's targets, and is anybody's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlenv.errors import MlenvError
from mlenv.location import BACKEND, CONSTRAINTS
from mlenv.overlay import NIGHTLY
from mlenv.project import Project
from mlenv.report import Finding

_RECORD = re.compile(rf"pylock\.(?P<nightly>{NIGHTLY})?(?P<backend>{BACKEND})\.toml")


def examine(project: Project) -> Iterator[Finding]:
    """What ``mlenv sync`` would refuse of each record. Raises OSError."""
    folder = project.root / CONSTRAINTS
    for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ():
        if (found := _RECORD.fullmatch(name)) is not None:
            of = project.of_channel("nightly" if found["nightly"] else "stable")
            yield from _examine_one(of, found["backend"])


def _examine_one(project: Project, backend: str) -> Iterator[Finding]:
    path = project.record_path(backend)
    if backend not in project.overlays:
        yield Finding(
            kind="record-orphan",
            message=f"is the record of {backend}, which has no overlay",
            path=path,
            why="no command reads it, and nobody notices when it grows old",
            hint=f"`rm {path}`; or {project.catalogue.overlay_hint(backend)}",
            severity="warning",
        )
        return
    try:
        record, overlay = project.record(backend), project.overlay(backend)
        for platform in project.settings.platforms:
            if record is not None and project.catalogue.builds_for(backend, platform):
                record.require_fit(overlay, platform=platform, python=project.target_python[0])
    except MlenvError as error:
        yield Finding(
            kind="record-unusable",
            message=error.message,
            path=str(error.path or path),
            line=error.line,
            why=f"`mlenv sync` of {backend} takes the foundation from it, and refuses it",
            hint=error.hint,
        )
