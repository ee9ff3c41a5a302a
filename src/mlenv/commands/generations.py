"""``mlenv generations``: the finished builds of this project's environments, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.system import disks, generation, history, in_use
from mlenv.system.disks import Use
from mlenv.system.generation import Generation


def generations(project: Project, environment: Path) -> Outcome:
    """Every finished generation, the newest first; writes nothing."""
    found = generation.known(project.state, environment)
    places = _places(project, environment)
    leased = in_use.leased(project.state)
    rows = [(g, disks.use(g.path), places.get(g.id, ()), g.id in leased) for g in found]
    text = "\n".join(_table(rows)) if rows else "there is none yet; `mlenv sync` builds one"
    return Outcome(text=text, data={"generations": [_data(*row) for row in rows]})


def _places(project: Project, environment: Path) -> Mapping[str, tuple[str, ...]]:
    """id → the environments that are this generation, as they are called from the project."""
    places: dict[str, tuple[str, ...]] = {}
    for path in dict.fromkeys((environment, *history.environments(project.state))):
        if (current := generation.current(path)) is not None:
            inside = path.is_relative_to(project.root)
            shown = path.relative_to(project.root).as_posix() if inside else str(path)
            places[current.id] = (*places.get(current.id, ()), shown)
    return places


_Row = tuple[Generation, Use, tuple[str, ...], bool]


def _table(rows: list[_Row]) -> list[str]:
    cells = [("generation", "in use as", "backend", "torch", "packages", "built", "on disk", "of it alone")]
    for found, use, places, leased in rows:
        named = ", ".join([*places, *(["mlenv run"] if leased else [])]) or "-"
        with_ = f" + {', '.join(found.extras)}" if found.extras else ""
        cells.append(
            (
                found.id,
                named,
                f"{found.backend}{with_}",
                str(found.manifest.get("torch") or "-"),
                str(len(found.planned)),
                datetime.fromtimestamp(found.created, UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
                disks.shown(use.total),
                disks.shown(use.alone),
            )
        )
    widths = [max(len(cell[column]) for cell in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip() for cell in cells]


def _data(found: Generation, use: Use, places: tuple[str, ...], leased: bool) -> dict[str, Any]:  # noqa: FBT001 - a row
    return {
        "id": found.id,
        "path": str(found.path),
        "environments": list(places),
        "leased": leased,
        "backend": found.backend,
        "additions": list(found.extras),
        "torch": found.manifest.get("torch"),
        "python": found.manifest.get("python"),
        "layout": found.layout,
        "built": datetime.fromtimestamp(found.created, UTC).isoformat(timespec="seconds"),
        "inputs": found.inputs,
        "packages": found.planned,
        "bytes": use.total,
        "bytes_alone": use.alone,
    }
