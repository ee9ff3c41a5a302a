"""The nightly channel: which nightlies a backend's foundation is held to, as an overlay and a record of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date

from mlenv import overlay as overlay_module
from mlenv import planning, record, releases
from mlenv.errors import ProjectError
from mlenv.location import CONSTRAINTS
from mlenv.overlay import NIGHTLY, Overlay
from mlenv.project import Project, read_text
from mlenv.releases import Family
from mlenv.system.files import write_atomically
from mlenv.system.uv import Uv
from mlenv.values import dataclass

_FOUND_ON = r"(?<=, found )\d{4}-\d\d-\d\d(?=[ .])"
_HEAD = """\
# The nightly foundation of backend {backend}, found {today}. `mlenv foundation upgrade --nightly` moves these pins;
# `mlenv sync --nightly --backend {backend}` installs them. The rest is as in constraints/{backend}.txt.
"""


@dataclass(frozen=True, kw_only=True)
class Nightly:
    """A nightly foundation that was found and not yet written: the texts of its overlay and of its record."""

    overlay: Overlay
    family: Family
    text: str
    record_path: str
    record_text: str


def find(project: Project, uv: Uv, backend: str, *, today: date, progress: Callable[[str], None]) -> Nightly:
    """The newest nightlies of a backend, checked against the lock, which stays as it is.

    Raises ProjectError without a nightly index, ResolutionError where they don't go together with the lock,
    PackageIndexError.
    """
    targets = releases.targets(project)
    stable = project.of_channel("stable").overlay(backend).on(targets)
    if stable.torch_version is None:
        raise ProjectError(
            "pins no torch, and the nightly channel is torch's",
            path=stable.path,
            hint="add a line torch==VERSION for the release, or do without --nightly for this backend",
        )
    progress(f"looking for the newest nightlies of {backend}")
    family = releases.newest_nightly(project, uv, stable)
    there = project.nightly_overlay(backend)
    old = there.on(targets) if there is not None else None
    path = f"{CONSTRAINTS}/{NIGHTLY}{backend}.txt"
    base = replace(stable, path=path, channel="nightly") if old is None else old
    found = overlay_module.moved(base, family.versions, without=family.lacking)
    made = planning.make_record(project.trying(found), uv, backend, today=today)
    return Nightly(
        overlay=found,
        family=family,
        text=_text(project, stable, old, family, today=today),
        record_path=made.path,
        record_text=record.render(made),
    )


def write(project: Project, found: Nightly) -> None:
    """Write the overlay and the record; the record first, as an overlay alone would be installed without it."""
    write_atomically(project.root / found.record_path, found.record_text, staging=project.state)
    write_atomically(project.root / found.overlay.path, found.text, staging=project.state)


def _text(project: Project, stable: Overlay, old: Overlay | None, family: Family, *, today: date) -> str:
    """The overlay's text: the old one with its pins and date moved, else the stable one's under a head of its own."""
    base = stable if old is None else old
    text = read_text(project.root / base.path, shown=base.path) or ""
    moved = overlay_module.rewritten(text, family.versions, overlay=base, without=family.lacking)
    if old is None:
        rest = re.sub(rf"\A{re.escape(overlay_module.HEAD)}.*\n", "", moved)
        return _HEAD.format(backend=stable.backend, today=today) + rest
    return re.sub(_FOUND_ON, str(today), moved, count=1)
