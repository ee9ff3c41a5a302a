"""Overlays: ``constraints/<backend>.txt``, the foundation's pins of one backend as a plain pip constraints file."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlenv.catalogue import Channel
from mlenv.errors import ProjectError, kept, raise_all
from mlenv.foundation import ROOT_NAMES
from mlenv.location import BACKEND
from mlenv.requirement_lines import canonical
from mlenv.requirements import named_lines
from mlenv.values import dataclass

NIGHTLY = "nightly-"
"""What the file name of a nightly overlay starts with: ``constraints/nightly-cu132.txt``."""

HEAD = "# The foundation of backend "
"""What the first line of an overlay starts with that `mlenv init` wrote."""

_PIN = r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*===?\s*(?P<version>[A-Za-z0-9.!+_-]+)"
_BUILD = r"(cpu|xpu|cu\d+|rocm\d+(?:\.\d+)*)(?![a-z0-9])"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One line of an overlay: a name with specifiers and perhaps a marker, never an extra or a URL."""

    requirement: Requirement
    line: int

    @property
    def name(self) -> str:
        """The canonical name."""
        return canonicalize_name(self.requirement.name)

    @property
    def pin(self) -> str | None:
        """The version where the line is one exact pin (``==2.14.1+cu130``), or None."""
        return _pin(self.requirement)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """The constraints of one backend in one channel; ``path`` is POSIX and relative to the project."""

    backend: str
    path: str
    constraints: tuple[Constraint, ...]
    channel: Channel = "stable"

    def roots(self, extra_roots: Iterable[str] = ()) -> tuple[Requirement, ...]:
        """The exact pins of torch, torchvision, torchaudio, tensorflow, jax and of ``extra_roots``, in file order.

        Their names are canonical, however the file spells them. An extra root may carry extras (``jax[cuda13]``).
        Raises ProjectError where an extra root isn't pinned here.
        """
        extras = dict(map(self._extra_root, extra_roots))
        pinned = (entry for entry in self.constraints if entry.pin is not None)
        found = (
            _as_root(entry, extras.get(entry.name, frozenset()))
            for entry in pinned
            if entry.name in ROOT_NAMES or entry.name in extras
        )
        return tuple(dict.fromkeys(found))

    @property
    def mixed_days(self) -> str | None:
        """The nightlies of different days that the overlay pins, in words; None where all are of one day."""
        found = ((entry.name, re.search(r"\.dev(\d{8})", entry.pin or "")) for entry in self.constraints)
        days = {name: match[1] for name, match in found if match is not None}
        told = ", ".join(f"{name} {day}" for name, day in days.items())
        return f"{self.path} pins nightlies of different days: {told}" if len(set(days.values())) > 1 else None

    def on(self, targets: Collection[Mapping[str, str]]) -> Overlay:
        """The overlay with only the lines that are for one of the targets (PEP 508's variables of each)."""
        markers = ((entry, entry.requirement.marker) for entry in self.constraints)
        there = (e for e, marker in markers if marker is None or any(marker.evaluate(dict(t)) for t in targets))
        return replace(self, constraints=tuple(there))

    @property
    def bounds(self) -> tuple[Requirement, ...]:
        """Every line that is no root's pin: it only constrains. Pins of extra roots are among them."""
        return tuple(
            entry.requirement for entry in self.constraints if entry.pin is None or entry.name not in ROOT_NAMES
        )

    @property
    def torch_version(self) -> str | None:
        """The public version torch is pinned to, or None; the first one where markers choose between several."""
        pins = (entry.pin for entry in self.constraints if entry.name == "torch")
        return next((Version(pin).public for pin in pins if pin is not None), None)

    def _extra_root(self, text: str) -> tuple[str, frozenset[str]]:
        try:
            root = Requirement(text)
        except InvalidRequirement:
            root = None
        if root is None or root.specifier or root.url or root.marker:
            hint = 'write names: roots = ["NAME"]; overlays hold the versions'
            raise ProjectError(f"[tool.mlenv.foundation] roots: {text!r} is no name", path="pyproject.toml", hint=hint)
        name = canonicalize_name(root.name)
        lines = [entry for entry in self.constraints if entry.name == name]
        if not any(entry.pin is not None for entry in lines):
            raise ProjectError(
                f"the root {name} of [tool.mlenv.foundation] is not pinned in this overlay",
                path=self.path,
                line=lines[0].line if lines else None,
                hint=f"add a line to {self.path}: {name}==VERSION",
            )
        return name, frozenset(root.extras)


def parse_overlay(root: Path, path: str) -> Overlay:
    """Read the overlay at ``path`` (relative to the project ``root``); its file name is the backend.

    ``nightly-<backend>.txt`` is the one of the nightly channel.

    Raises ProjectError with file and line: lines that are no plain constraint, roots without exact pin, labels of
    another backend, pins that contradict each other.
    """
    stem = Path(path).name.removesuffix(".txt")
    backend = stem.removeprefix(NIGHTLY)
    lines = named_lines(root, path, what="an overlay")
    constraints = tuple(Constraint(requirement=entry.requirement, line=entry.line) for entry in lines)
    wrong: list[ProjectError] = []
    for entry in constraints:
        with kept(wrong):
            _require_label(entry, backend, path)
    by_name: dict[str, list[Constraint]] = {}
    for entry in constraints:
        by_name.setdefault(entry.name, []).append(entry)
    for first, second in (pair for entries in by_name.values() for pair in combinations(entries, 2)):
        with kept(wrong):
            _require_agreement(first, second, path)
    with kept(wrong):
        _require_pinned_roots(constraints, path)
    raise_all(wrong)
    channel: Channel = "stable" if stem == backend else "nightly"
    return Overlay(backend=backend, path=path, constraints=constraints, channel=channel)


def load_overlays(root: Path, folder: str = "constraints") -> Mapping[str, Overlay]:
    """Every overlay of a project by backend, sorted; empty where the folder is missing.

    Files whose name can't be a backend's (capitals, hyphens, other endings than ``.txt``) are passed over. Raises
    ProjectError.
    """
    try:
        if not stat.S_ISDIR((root / folder).stat().st_mode):
            raise ProjectError("is no folder", path=folder, hint=f"overlays are {folder}/<backend>.txt")
        names = sorted(entry.name for entry in (root / folder).iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProjectError(f"can't be read: {error.strerror}", path=folder, hint="check its permissions") from error
    backends = [name.removesuffix(".txt") for name in names if name.endswith(".txt")]
    return {
        name: parse_overlay(root, f"{folder}/{name}.txt") for name in sorted(backends) if re.fullmatch(BACKEND, name)
    }


def contradictions(overlays: Iterable[Overlay], *, shared: Callable[[str], bool]) -> tuple[str, ...]:
    """Bounds of two overlays that no release satisfies both of, in words with file and line.

    ``shared`` says whether a name is pinned once for all backends.
    """
    found = []
    for one, other in combinations(overlays, 2):
        for first, second in product(one.constraints, other.constraints):
            if first.name == second.name and shared(first.name) and _exclude(first, second):
                found.append(
                    f"{one.path}:{first.line} wants {first.requirement}, "
                    f"and {other.path}:{second.line} {second.requirement}"
                )
    return tuple(found)


def _exclude(first: Constraint, second: Constraint) -> bool:
    """Whether one of the two is an exact pin that the other does not allow, whatever the platform."""
    if first.requirement.marker or second.requirement.marker:
        return False
    pins = [(one.pin, other) for one, other in ((first, second), (second, first)) if one.pin is not None]
    return any(not other.requirement.specifier.contains(pin, prereleases=True) for pin, other in pins)


def rewritten(text: str, versions: Mapping[str, str], *, overlay: Overlay, without: Collection[str] = ()) -> str:
    """The text of an overlay with the pins in ``versions`` (canonical name → public version) moved.

    Only lines of ``overlay`` move, which may be the file's overlay on some targets. Comments, order, markers and
    everything else stay; a pin that carries a build keeps it. The lines of the names in ``without`` become comments.
    """
    lines = []
    moving = {entry.line for entry in overlay.constraints}
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        found = re.match(_PIN, line) if number in moving else None
        name = canonicalize_name(found["name"]) if found else ""
        version = versions.get(name)
        if found is not None and name in without:
            line = f"# {line}"
        elif found is not None and version is not None:
            label = found["version"].partition("+")[1:]
            line = f"{line[: found.start('version')]}{version}{''.join(label)}{line[found.end('version') :]}"
        lines.append(line)
    return "".join(lines)


def moved(overlay: Overlay, versions: Mapping[str, str], *, without: Collection[str] = ()) -> Overlay:
    """The overlay with the pins in ``versions`` (canonical name → public version) moved and some names left out."""
    constraints = tuple(
        replace(entry, requirement=_moved(entry.requirement, versions[entry.name]))
        if entry.pin is not None and entry.name in versions
        else entry
        for entry in overlay.constraints
        if entry.name not in without
    )
    return replace(overlay, constraints=constraints)


def _moved(requirement: Requirement, version: str) -> Requirement:
    copy = Requirement(str(requirement))
    label = Version(_pin(requirement) or "0").local
    copy.specifier = SpecifierSet(f"=={version}+{label}" if label else f"=={version}")
    return copy


def without_label(requirement: Requirement) -> Requirement:
    """``torch==2.14.1+cu130`` as ``torch==2.14.1``: the default index publishes no local labels."""
    bare = Requirement(str(requirement))
    bare.specifier = SpecifierSet(",".join(f"{s.operator}{s.version.split('+')[0]}" for s in requirement.specifier))
    return bare


def meaning(overlay: Overlay) -> str:
    """Canonical text of the constraints as a set: what an overlay's digest is computed from."""
    return "".join(f"{line}\n" for line in sorted({canonical(entry.requirement) for entry in overlay.constraints}))


def _pin(requirement: Requirement) -> str | None:
    only = _only(requirement)
    if only is None or only.operator not in ("==", "==="):
        return None
    try:
        return str(Version(only.version))
    except InvalidVersion:  # ==2.*, ===anything
        return None


def _only(requirement: Requirement) -> Specifier | None:
    return next(iter(requirement.specifier)) if len(requirement.specifier) == 1 else None


def _as_root(entry: Constraint, extras: frozenset[str]) -> Requirement:
    copy = Requirement(str(entry.requirement))
    copy.name = entry.name
    copy.extras = set(extras)
    return copy


def _require_label(entry: Constraint, backend: str, path: str) -> None:
    """A pin of one build can't stand in the overlay of another; a backend with a name of its own may hold any."""
    label = Version(entry.pin).local if entry.pin is not None else None
    built = re.match(_BUILD, label or "")
    if built and re.fullmatch(_BUILD, backend) and built[1] != backend:
        raise ProjectError(
            f"{entry.requirement} is a build for {built[1]}, and this overlay is for {backend}",
            path=path,
            line=entry.line,
            hint=f"write {entry.name}=={Version(entry.pin or '').public}+{backend}, or leave the label off",
        )


def _require_agreement(first: Constraint, second: Constraint, path: str) -> None:
    """Two lines on one name may not exclude each other, unless two different markers keep them apart."""
    markers = [str(entry.requirement.marker) for entry in (first, second) if entry.requirement.marker]
    if len(set(markers)) == 2:
        return
    meets = [
        other.requirement.specifier.contains(one.pin, prereleases=True)
        for one, other in ((first, second), (second, first))
        if one.pin is not None
    ]
    if meets and not any(meets):
        raise ProjectError(
            f"{second.requirement} contradicts {first.requirement} in line {first.line}",
            path=path,
            line=second.line,
            hint="keep one of the two lines",
        )


def _require_pinned_roots(constraints: tuple[Constraint, ...], path: str) -> None:
    """A root without exact pin would be chosen anew at each lock, and by uv rather than by the overlay."""
    pinned = {entry.name for entry in constraints if entry.pin is not None}
    for entry in constraints:
        if entry.name in ROOT_NAMES and entry.name not in pinned:
            raise ProjectError(
                f"{entry.requirement} is no exact pin, and {entry.name} is a root of the foundation",
                path=path,
                line=entry.line,
                hint=f"write {entry.name}==VERSION; `mlenv init` knows releases that exist",
            )
