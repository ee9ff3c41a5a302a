"""``mlenv foundation list``: which releases exist for each backend, for the target Python and platforms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from packaging.version import Version

from mlenv import releases
from mlenv.errors import MlenvError
from mlenv.overlay import Overlay
from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.system import process
from mlenv.system.uv import Uv
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One backend: what its overlay pins, what mlenv knows, and what a source has.

    ``nightly`` is the newest of its index of nightlies, where the project has one; ``problems`` are why a source can't
    say.
    """

    backend: str
    overlay: str | None
    known: tuple[str, ...]
    unconfirmed: tuple[str, ...]
    platforms: tuple[str, ...]
    found: str | None = None
    source: str | None = None
    nightly: str | None = None
    problems: tuple[str, ...] = ()


def list_releases(project: Project, uv: Uv, *, backends: Sequence[str]) -> Outcome:
    """A table of backends: the overlay's torch, the newest on its source (asked, unless offline), the known releases.

    Raises ProjectError for a project file that can't be used, and for a backend that nobody declares.
    """
    for name in backends:
        if name not in project.catalogue.backends:
            project.overlay(name)
    known = {name for name in project.catalogue.backends if project.catalogue.newest_release(name) is not None}
    names = backends or sorted({*project.overlays, *known}, key=lambda name: _order(project, name), reverse=True)
    rows = [_row(project, name) for name in names]
    if not uv.offline:
        rows = _asked(project, uv, rows)
    python = project.target_python[0]
    platforms = ", ".join(project.settings.platforms)
    head = f"Python {python}, {platforms}" + (" (offline: no source was asked)" if uv.offline else "")
    data = {"python": python, "platforms": list(project.settings.platforms), "backends": [_data(row) for row in rows]}
    return Outcome(text="\n".join([head, "", *_table(rows)]), data=data)


def _row(project: Project, name: str) -> _Row:
    python = ".".join(project.target_python[0].split(".")[:2])
    of_python = [release for release in project.catalogue.releases if python in release.python]
    overlay = _overlay(project, name)
    return _Row(
        backend=name,
        overlay=overlay.torch_version if overlay is not None else None,
        known=tuple(release.torch for release in of_python if name in release.backends),
        unconfirmed=tuple(release.torch for release in of_python if name in release.unconfirmed),
        platforms=tuple(p for p in project.settings.platforms if project.catalogue.builds_for(name, p)),
    )


def _overlay(project: Project, name: str) -> Overlay | None:
    """The overlay of a backend with the lines for the project's targets, or None where it has none."""
    found = project.overlays.get(name)
    return found.on(releases.targets(project)) if found is not None else None


def _asked(project: Project, uv: Uv, rows: Sequence[_Row]) -> list[_Row]:
    """The rows of backends with an overlay, with what their sources have; the sources are asked side by side."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        try:
            return list(pool.map(lambda row: _with_source(project, uv, row), rows))
        except BaseException:
            process.stop()
            raise


def _with_source(project: Project, uv: Uv, row: _Row) -> _Row:
    overlay = _overlay(project, row.backend)
    if overlay is None or row.overlay is None or not row.platforms:
        return row
    try:
        family = releases.newest(project, uv, overlay)
        row = replace(row, found=str(family.torch), source=family.source.index)
    except MlenvError as error:
        row = replace(row, problems=(error.message.splitlines()[0],))
    if not project.indexes.source_names(row.backend, channel="nightly"):
        return row
    try:
        return replace(row, nightly=str(releases.newest_nightly(project, uv, overlay).torch))
    except MlenvError as error:
        return replace(row, problems=(*row.problems, f"nightly: {error.message.splitlines()[0]}"))


def _table(rows: Iterable[_Row]) -> list[str]:
    cells = [("backend", "overlay", "on its source", "known releases of torch")]
    for row in rows:
        source = f"{row.found} ({row.source})" if row.found else "can't be asked" if row.problems else "-"
        known = ", ".join([*row.known, *(f"{torch}?" for torch in row.unconfirmed)]) or "none for this Python"
        cells.append(
            (row.backend, row.overlay or "-", source, known if row.platforms else "no build for these platforms")
        )
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(cell[:3], widths, strict=True)), cell[3]]) for cell in cells]
    problems = [f"{row.backend}: {problem}" for row in rows for problem in row.problems]
    nightlies = [f"nightly of {row.backend}: torch {row.nightly}" for row in rows if row.nightly]
    upgrades = [row.backend for row in rows if row.found and row.overlay and Version(row.found) > Version(row.overlay)]
    more = [f"newer than the overlay: {', '.join(upgrades)}; `mlenv foundation upgrade` moves it"] if upgrades else []
    doubt = ["? = may exist; nobody has seen it"] if any(row.unconfirmed for row in rows) else []
    below = [*problems, *doubt, *nightlies, *more]
    return [*lines, *([""] if below else []), *below]


def _data(row: _Row) -> dict[str, Any]:
    return {
        "backend": row.backend,
        "overlay": row.overlay,
        "newest": row.found,
        "source": row.source,
        "nightly": row.nightly,
        "problem": "; ".join(row.problems) or None,
        "known": list(row.known),
        "unconfirmed": list(row.unconfirmed),
        "platforms": list(row.platforms),
    }


def _order(project: Project, name: str) -> tuple[tuple[int, int], str]:
    return project.catalogue.backend(name).cuda or (0, 0), name
