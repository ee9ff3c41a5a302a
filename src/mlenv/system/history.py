"""Which generations each environment has pointed to: what keeps them from being removed, and what rollback follows."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlenv.system.files import write_atomically
from mlenv.system.links import is_link

_FILE = "history.json"
_KEPT = 50


def read(state: Path) -> dict[Path, tuple[str, ...]]:
    """environment → the ids of its generations, the latest last; empty where nothing is known or readable."""
    try:
        document = json.loads((state / _FILE).read_text(encoding="utf-8"))
        return {_absolute(state, name): tuple(map(str, ids)) for name, ids in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def environments(state: Path) -> tuple[Path, ...]:
    """Every environment that was made from a generation of this project and is there still, ``.venv`` first."""
    known = (state.parent / ".venv", *(path for path in read(state) if path != state.parent / ".venv"))
    return tuple(path for path in known if is_link(path) or path.is_dir())


def before(state: Path, environment: Path, current: str | None) -> tuple[str, ...]:
    """The ids that ``environment`` pointed to before ``current``, the latest first."""
    ids = read(state).get(environment, ())
    upto = len(ids) - 1 - ids[::-1].index(current) if current in ids else len(ids)
    return tuple(id_ for id_ in reversed(ids[:upto]) if id_ != current)


def note(state: Path, environment: Path, id_: str, *, was: str | None = None, back_to: str | None = None) -> None:
    """Note that ``environment``, which ``was`` another one, is about to be ``id_``.

    With ``back_to``, that it takes the place of that one.
    """
    known = read(state)
    ids = known.get(environment, ())
    if was is not None and was not in ids:  # the history was lost
        ids = (*ids, was)
    if back_to in ids:
        ids = ids[: len(ids) - 1 - ids[::-1].index(back_to)]
    if ids[-1:] != (id_,):
        ids = (*ids, id_)[-_KEPT:]
    if known.get(environment) != ids:
        known[environment] = ids
        document = {_relative(state, path): list(held) for path, held in sorted(known.items())}
        write_atomically(state / _FILE, json.dumps(document, indent=1) + "\n", staging=state, shown=str(state / _FILE))


def _absolute(state: Path, name: str) -> Path:
    return Path(os.path.normpath(state.parent / name))


def _relative(state: Path, path: Path) -> str:
    """Relative inside the project, so that it can be moved."""
    return path.relative_to(state.parent).as_posix() if path.is_relative_to(state.parent) else str(path)
