"""From requirements and overlays to what uv reads, and from what uv wrote to two layers. Pure.

For one backend the question put to uv is: the foundation's roots at the overlay's pins, together with the requirements
of the Application. The roots stand in a generated ``pyproject.toml``, because only there uv binds a name to one index
(FACTS, uv 13); a name found deeper in the graph that belongs to an index of its own is added there and asked again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from functools import reduce
from itertools import zip_longest
from typing import TYPE_CHECKING

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlenv import platforms as platforms_module
from mlenv.errors import ProjectError
from mlenv.foundation import ROOT_NAMES, FoundationNames, colliding, cuda_family
from mlenv.indexes import Index
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay
from mlenv.system.uv_messages import GENERATED_PROJECT
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.catalogue import Catalogue

# What mlenv generates lies in a folder that no file of a project is in.
OWN_FOLDER = ".mlenv-in"
FOUNDATION_FILE = f"{OWN_FOLDER}/pyproject.toml"
PINS_FILE = f"{OWN_FOLDER}/pins.txt"
BOUNDS_FILE = f"{OWN_FOLDER}/bounds.txt"
HELD_FILE = f"{OWN_FOLDER}/held.txt"
CLASH_FILE = f"{OWN_FOLDER}/the-other-backends-pin.txt"
NAMES_FILE = f"{OWN_FOLDER}/names.txt"
DEFAULT_SOURCE = "default"
# Published on the PyTorch index together with torch; the other foundation packages come from the default index.
TORCH_FAMILY = frozenset({"torch", "torchvision", "torchaudio", "torchcodec", "triton-rocm", "triton-xpu"}) | {
    "pytorch-triton",
    "pytorch-triton-rocm",
    "pytorch-triton-xpu",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one backend's torch family comes from: a named index, or the default one.

    ``equal`` is False where the default index only stands in with the metadata of another build of the same release
    (for resolving, never for installing).
    """

    index: str = DEFAULT_SOURCE
    equal: bool = True

    @property
    def named(self) -> bool:
        """Whether it is an index of uv.toml rather than the default one."""
        return self.index != DEFAULT_SOURCE

    @property
    def nightly(self) -> bool:
        """Whether it is an index of nightlies."""
        return self.index.startswith("pytorch-nightly-")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What uv chose for one backend: every pin, which of them are foundation, and the files (PEP 751 tables)."""

    backend: str
    source: Source
    foundation: tuple[Pin, ...]
    application: tuple[Pin, ...]
    files: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def pins(self) -> dict[str, Pin]:
        """Every pin of both layers by name."""
        return {pin.name: pin for pin in (*self.foundation, *self.application)}


def foundation_project(
    roots: Iterable[Requirement], *, bindings: Mapping[str, str], indexes: Mapping[str, Index], python: str
) -> str:
    """The text of the pyproject.toml that carries the roots and binds names (``bindings``: name → index name)."""
    import tomlkit

    root_names = {canonicalize_name(root.name) for root in roots}
    extra = sorted(set(bindings) - root_names)
    document: dict[str, object] = {
        "project": {
            "name": GENERATED_PROJECT,
            "version": "0",
            "requires-python": f">={python}",
            "dependencies": [str(root) for root in roots] + extra,
        }
    }
    if bindings:
        used = sorted(set(bindings.values()))
        tables = [{"name": n, "url": indexes[n].url, "explicit": True, "format": indexes[n].format} for n in used]
        document["tool"] = {
            "uv": {"sources": {name: {"index": index} for name, index in sorted(bindings.items())}, "index": tables}
        }
    return tomlkit.dumps(document)


def source_order(
    overlay: Overlay, *, equal_default: bool, declared: tuple[str, ...] | None, indexes: Mapping[str, Index]
) -> tuple[Source, ...]:
    """The sources to try for the whole foundation of one backend, the preferred one first.

    ``declared`` is ``sources`` of the settings. ``equal_default`` says that the default index's own release *is* this
    build (from the catalogue). Raises ProjectError for a source that uv.toml doesn't name.
    """
    family = [root for root in overlay.roots() if canonicalize_name(root.name) in TORCH_FAMILY]
    if declared is not None:
        for name in declared:
            if name != DEFAULT_SOURCE and name not in indexes:
                raise ProjectError(
                    f"[tool.mlenv.backends.{overlay.backend}] sources names the index {name!r}, "
                    "which uv.toml does not have",
                    path="pyproject.toml",
                    hint=f'add it to uv.toml: [[index]] name = "{name}", url = ..., explicit = true',
                )
        return tuple(Source(index=name) for name in declared)
    named = f"pytorch-{overlay.backend}"
    if not family:
        return (Source(),)
    first = (Source(),) if equal_default else ()
    return first + ((Source(index=named),) if named in indexes else ())


def split_layers(pins: Iterable[Pin], *, names: FoundationNames, roots: Collection[str]) -> tuple[list[Pin], list[Pin]]:
    """(foundation, application) of one resolution.

    A package belongs to the foundation by its name, or because nothing but non-root foundation packages brings it
    (``triton`` alone brings ``setuptools``). What a root itself requires (sympy, jinja2) is Application.
    """
    everything = list(pins)
    owned = {pin.name for pin in everything if pin.name in roots or names.owns(pin.name)}
    inner = owned - set(roots)
    while True:
        brought = {
            pin.name
            for pin in everything
            if pin.name not in owned and pin.via and all(parent in inner for parent in parents(pin))
        }
        if not brought:
            break
        owned |= brought
        inner |= brought
    foundation = [pin for pin in everything if pin.name in owned]
    return foundation, [pin for pin in everything if pin.name not in owned]


def parents(pin: Pin) -> tuple[str, ...]:
    """Who brings a package; constraints, which uv names as well, bring nothing."""
    return tuple(via for via in pin.via if not via.startswith("-c "))


def require_pinned_roots(
    overlay: Overlay,
    pins: Iterable[Pin],
    *,
    roots: Collection[Requirement],
    environment: Mapping[str, str],
    catalogue: Catalogue,
) -> None:
    """Raise ProjectError where the resolution holds a root that no pin of the overlay is for on the target.

    ``roots`` are the overlay's pins, ``environment`` has PEP 508's variables of the target.
    """
    names = {canonicalize_name(root.name) for root in roots}
    pinned = {canonicalize_name(root.name) for root in roots if _holds(root.marker, environment)}
    for pin in pins:
        if pin.name in names.union(ROOT_NAMES) - pinned:
            raise _unpinned(overlay, pin, catalogue)


def _holds(marker: Marker | None, environment: Mapping[str, str]) -> bool:
    return marker is None or marker.evaluate({**environment, "extra": ""})


def _unpinned(overlay: Overlay, pin: Pin, catalogue: Catalogue) -> ProjectError:
    brought = " and ".join(pin.via) or "the requirements"
    lines = [entry for entry in overlay.constraints if entry.name == pin.name and entry.pin is not None]
    if lines:
        markers = " or ".join(str(entry.requirement.marker) for entry in lines)
        what = f"this overlay pins it only where {markers}, which the lock's target is not"
    else:
        what = "this overlay does not pin it"
    version = _built(overlay.backend, pin, catalogue)
    if version is not None:
        hint = f"add a line to {overlay.path}, such as {pin.name}=={version}"
    else:
        built = ", ".join(catalogue.builds(pin.name, pin.version or "") or ())
        what += f": {pin.name} {pin.version} has no {overlay.backend} build, it has {built}"
        hint = f'require no {pin.name}, or leave the backend out: [tool.mlenv] unproven = ["{overlay.backend}"]'
    line = lines[0].line if lines else None
    return ProjectError(f"{pin.name} is needed ({brought}) and {what}", path=overlay.path, line=line, hint=hint)


def _built(backend: str, pin: Pin, catalogue: Catalogue) -> str | None:
    """A version of that root which has a build of the backend, as far as the catalogue knows; None where none has."""
    newest = catalogue.newest_release(backend)
    if pin.name == "torch" and newest is not None and not catalogue.has_build(backend, pin.version or ""):
        return newest.torch
    return None if catalogue.lacks(backend, pin.name, pin.version or "") else pin.version


def brought_beside_torch(foundation: Iterable[Pin]) -> dict[str, Pin]:
    """The foundation packages that something other than the torch family asks for, by name, and what those bring.

    Their ``via`` names only that; a package that torch brings as well is among them.
    """
    others = [pin for pin in foundation if pin.name not in TORCH_FAMILY]
    family = _descendants(others, TORCH_FAMILY)
    beside = {
        pin.name for pin in others if not pin.via or any(via not in family | TORCH_FAMILY for via in parents(pin))
    }
    beside |= _descendants(others, beside)
    return {
        pin.name: replace(pin, via=tuple(via for via in pin.via if via not in TORCH_FAMILY | family - beside))
        for pin in others
        if pin.name in beside
    }


def brought_by_torch(foundation: Iterable[Pin]) -> dict[str, Pin]:
    """The foundation packages that the torch family brings, directly or not, by name; ``via`` names only that."""
    others = [pin for pin in foundation if pin.name not in TORCH_FAMILY]
    family = _descendants(others, TORCH_FAMILY)
    return {
        pin.name: replace(pin, via=tuple(via for via in pin.via if via in TORCH_FAMILY | family))
        for pin in others
        if pin.name in family
    }


def _descendants(pins: Collection[Pin], parents: Collection[str]) -> set[str]:
    found: set[str] = set()
    while True:
        known = found | set(parents)
        more = {pin.name for pin in pins if any(via in known for via in pin.via)} - found
        if not more:
            return found
        found |= more


def chain(name: str, pins: Mapping[str, Pin]) -> str:
    """How ``name`` came in, from a file or a root down: ``requirements.in → xgboost → nvidia-nccl-cu13``."""
    path, seen = [name], {name}
    while True:
        above = [p for p in parents(pins[path[0]]) if p not in seen] if path[0] in pins else []
        if not above or path[0] in ROOT_NAMES:
            return " → ".join(path)
        direct = [p for p in above if p.startswith("-r ")]
        if direct:
            return " → ".join([direct[0].removeprefix("-r "), *path])
        path.insert(0, above[0])
        seen.add(above[0])


def merge_pin(first: Pin, second: Pin) -> Pin:
    """One pin out of two overlays' equal ones: extras, hashes and annotations of both."""
    return replace(
        first,
        extras=tuple(sorted({*first.extras, *second.extras})),
        hashes=tuple(sorted({*first.hashes, *second.hashes})),
        via=tuple(sorted({*first.via, *second.via})),
    )


def union(first: Mapping[str, Pin], second: Mapping[str, Pin]) -> dict[str, Pin]:
    """The pins of both by name, those that are in both as one."""
    both = {name: merge_pin(first[name], second[name]) for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def joined(by_platform: Mapping[str, Mapping[str, Pin]], direct: Mapping[str, Collection[Marker | None]]) -> list[Pin]:
    """One list of pins out of every platform's (by name), with markers where the platforms differ.

    A direct requirement keeps the marker it has in its file, as pip-compile writes it; ``direct`` has the markers of
    each, one for each line.
    """
    found: list[Pin] = []
    for name in sorted({name for pins in by_platform.values() for name in pins}):
        releases: dict[tuple[str | None, str | None], dict[str, Pin]] = {}
        for platform, pins in by_platform.items():
            if name in pins:
                releases.setdefault((pins[name].version, pins[name].url), {})[platform] = pins[name]
        for of_platform in releases.values():
            pin = reduce(merge_pin, of_platform.values())
            marker = _marker(pin, direct.get(name, ()), several=len(by_platform) > 1) if len(releases) == 1 else None
            found.append(replace(pin, marker=marker or platforms_module.marker(of_platform, among=by_platform)))
    return found


def _marker(pin: Pin, markers: Collection[Marker | None], *, several: bool) -> str | None:
    """A direct requirement's marker. Among ``several`` platforms it says nothing of who else brings the package."""
    brought = several and any(not is_file(via) for via in parents(pin))
    texts = sorted({str(marker) for marker in markers})
    if brought or not markers or None in markers:
        return None
    return texts[0] if len(texts) == 1 else " or ".join(f"({text})" for text in texts)


def is_file(via: str) -> bool:
    """``-r requirements.in`` or ``name (pyproject.toml)``, and no package."""
    return via.startswith("-r ") or via.endswith(")")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line of the difference between two locks; ``before``/``after`` are versions, None where there was no pin."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:  # noqa: D105 - the class says it
        if self.before is None:
            return f"+ {self.name} {self.after}"
        if self.after is None:
            return f"- {self.name} {self.before}"
        if self.before == self.after:
            return f"~ {self.name} {self.after} (hashes, extras or annotations)"
        return f"{'↑' if _newer(self.before, self.after) else '↓'} {self.name} {self.before} → {self.after}"


def changes(before: Iterable[Pin], after: Iterable[Pin]) -> tuple[Change, ...]:
    """What differs between two sets of pins, by name."""
    old, new = ({(pin.name, pin.marker): pin for pin in pins} for pins in (before, after))
    left = {key: pin for key, pin in old.items() if new.get(key) != pin}
    right = {key: pin for key, pin in new.items() if old.get(key) != pin}
    found = []
    for name in sorted({name for name, _ in (*left, *right)}):
        ours, theirs = ([pin for (n, _), pin in pins.items() if n == name] for pins in (left, right))
        pairs = zip_longest(ours, theirs)
        found += [Change(name=name, before=_shown(one), after=_shown(other)) for one, other in pairs]
    return tuple(found)


def _shown(pin: Pin | None) -> str | None:
    return None if pin is None else pin.version or pin.url


def _newer(before: str, after: str) -> bool:
    try:
        return Version(before) < Version(after)
    except ValueError:
        return False


def collision(answer: Resolved) -> tuple[Pin, Pin] | None:
    """Two packages of one backend that are the same library for two CUDA families, or None.

    Where the default index stood in, torch's own libraries are another build's: they are read as the backend's family,
    and not at all for a backend without CUDA.
    """
    pins = {pin.name: pin for pin in answer.foundation}
    if not answer.source.equal:
        own = brought_by_torch(answer.foundation).values()
        pins = {**_as_family_of(answer.backend, own), **brought_beside_torch(answer.foundation)}
    for first, second in colliding(pins):
        return pins[first], pins[second]
    return None


def _as_family_of(backend: str, pins: Iterable[Pin]) -> dict[str, Pin]:
    """The libraries that the backend's own build would bring instead of these; none for a backend without CUDA."""
    major = backend.removeprefix("cu")[:-1]
    families = [(pin, cuda_family(pin.name)) for pin in pins] if major.isdigit() else []
    named = [(pin, f"{family[0]}-cu{major}") for pin, family in families if family is not None]
    return {name: replace(pin, name=name) for pin, name in named}
