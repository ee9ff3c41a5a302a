"""``mlenv generations``: the finished builds of this project's environments, and what each holds; ``--remove``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlenv.errors import UsageError, did_you_mean
from mlenv.project import Project
from mlenv.report import Outcome
from mlenv.selection import Environment
from mlenv.system import disks, generation, history, in_use
from mlenv.system.disks import Use
from mlenv.system.files import project_lock
from mlenv.system.generation import Generation


def generations(project: Project, environment: Environment) -> Outcome:
    """Every finished generation, those of one backend where the environment is asked for that; the newest first.

    Writes nothing.
    """
    known = generation.known(project.state, environment.path)
    found = [g for g in known if environment.backend in (None, g.backend)]
    used = _used(project, environment, found)
    rows = [(g, disks.use(g.path), used[g.id]) for g in found]
    of_it = f" of {environment.backend}" if environment.backend else ""
    text = "\n".join(_table(rows)) if rows else f"there is none{of_it} yet; {environment.sync()} builds one"
    return Outcome(text=text, data={"generations": [_data(*row) for row in rows]})


def remove(
    project: Project, environment: Environment, ids: Sequence[str], *, wait: float, progress: Callable[[str], None]
) -> Outcome:
    """Remove finished generations: all that are named, or none of them where one can't be.

    Raises UsageError for an unknown id, and for a generation that is in use.
    """
    with project_lock(project.state, wait=wait, waiting=progress):
        found = {g.id: g for g in generation.known(project.state, environment.path)}
        for id_ in ids:
            if id_ not in found:
                hint = did_you_mean(id_, found, otherwise="`mlenv generations` lists them")
                raise UsageError(f"there is no generation {id_!r}", hint=hint)
        asked = [found[id_] for id_ in dict.fromkeys(ids)]
        used = _used(project, environment, asked)
        if told := [f"{id_} is in use as {', '.join(use.words)}" for id_, use in used.items() if use.words]:
            free = [id_ for id_, use in _used(project, environment, found.values()).items() if not use.words]
            hint = f"free to go: {', '.join(free[:5])}" if free else "every generation that is here is in use"
            raise UsageError(f"{'; '.join(told)}; nothing was removed", hint=hint)
        alone = sum(disks.use(g.path).alone for g in asked)
        for one in asked:
            generation.remove(one)
    data = {"removed": [g.id for g in asked], "bytes": alone}
    return Outcome(text=f"removed {', '.join(g.id for g in asked)} ({disks.shown(alone)})", data=data)


@dataclass(frozen=True, kw_only=True)
class _InUse:
    """Who uses a generation: environments, as they are called from the project; a lease; a process that runs in it."""

    environments: tuple[str, ...]
    leased: bool
    running: bool

    @property
    def words(self) -> tuple[str, ...]:
        return (
            *self.environments,
            *(["mlenv run"] if self.leased else []),
            *(["a process"] if self.running and not self.leased else []),
        )


def _used(project: Project, environment: Environment, found: Iterable[Generation]) -> Mapping[str, _InUse]:
    places, leased, running = _places(project, environment.path), in_use.leased(project.state), in_use.running()
    return {
        g.id: _InUse(
            environments=places.get(g.id, ()),
            leased=g.id in leased,
            running=in_use.runs_in(g.path.resolve(), running),
        )
        for g in found
    }


def _places(project: Project, environment: Path) -> Mapping[str, tuple[str, ...]]:
    """id → the environments that are this generation, as they are called from the project."""
    places: dict[str, tuple[str, ...]] = {}
    for path in dict.fromkeys((environment, *history.environments(project.state))):
        if (current := generation.current(path)) is not None:
            inside = path.is_relative_to(project.root)
            shown = path.relative_to(project.root).as_posix() if inside else str(path)
            places[current.id] = (*places.get(current.id, ()), shown)
    return places


_Row = tuple[Generation, Use, _InUse]


def _table(rows: list[_Row]) -> list[str]:
    cells = [("generation", "in use as", "backend", "torch", "packages", "built", "on disk", "of it alone")]
    for found, use, used in rows:
        named = ", ".join(used.words) or "-"
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


def _data(found: Generation, use: Use, used: _InUse) -> dict[str, Any]:
    return {
        "id": found.id,
        "path": str(found.path),
        "environments": list(used.environments),
        "leased": used.leased,
        "running": used.running,
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
