"""The installation plan: a PEP 751 file with one URL and hash per file, both layers, checked against the lock. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mlenv import wheelless
from mlenv.errors import FindingError, IntegrityError, NoWheelError
from mlenv.foundation import FoundationNames
from mlenv.lockfile import Pin
from mlenv.resolution import Resolved
from mlenv.values import dataclass

Layer = str
FOUNDATION: Layer = "foundation"
APPLICATION: Layer = "application"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One package of a plan. ``table`` is its PEP 751 ``[[packages]]`` table."""

    name: str
    version: str
    layer: Layer
    table: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its wheel, 0 where the index doesn't say."""
        files = self.table.get("wheels") or [self.table.get("archive") or self.table.get("sdist") or {}]
        return int(files[0].get("size", 0))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one environment will hold: every package of both layers, its file and hash, and what uv's source was."""

    backend: str
    source: str
    packages: tuple[Planned, ...]

    def layer(self, layer: Layer) -> tuple[Planned, ...]:
        """The packages of one layer."""
        return tuple(package for package in self.packages if package.layer == layer)

    def version(self, name: str) -> str | None:
        """The version planned for a package, or None."""
        return next((package.version for package in self.packages if package.name == name), None)


def make(resolved: Resolved, *, lock: Iterable[Pin], built: Collection[str], extra: Collection[str] = ()) -> Plan:
    """The plan for one backend, its Application held to the lock.

    ``built`` names the packages whose source distributions may be built, ``extra`` the ones that were asked for beside
    the lock (``--with``) and what those brought. Raises FindingError where the lock lacks a package, IntegrityError
    where no file has a hash that the lock knows, NoWheelError where a package has no wheel.
    """
    pins = {pin.name: pin for pin in lock}
    foundation = {pin.name for pin in resolved.foundation}
    packages = []
    for name, pin in sorted(resolved.pins.items()):
        if name not in resolved.files:
            continue
        table = _with_index(resolved.files[name], pin.index)
        if name not in foundation:
            if name in pins:
                table = _held_to(pins[name], table)
            elif name not in extra:
                needing = " and ".join(pin.via) or "the foundation"
                raise FindingError(
                    f"the lock lacks {name}, which {needing} needs on {resolved.backend}", hint="run `mlenv lock`"
                )
        require_wheel(name, pin.version or "", table, built=built)
        layer = FOUNDATION if name in foundation else APPLICATION
        packages.append(Planned(name=name, version=pin.version or "", layer=layer, table=table))
    return Plan(backend=resolved.backend, source=resolved.source.index, packages=tuple(packages))


def hashes(package: Planned) -> list[str]:
    """The SHA-256 of a package's files, sorted."""
    files = (*package.table.get("wheels", ()), *(package.table.get(key, {}) for key in ("sdist", "archive")))
    return sorted(filter(None, map(sha256, files)))


def apart(plan: Plan, names: Collection[str]) -> tuple[Plan, tuple[Planned, ...]]:
    """The plan without those of ``names`` that have no wheel, and these: they are built against the others."""
    sources = tuple(p for p in plan.packages if p.name in names and not p.table.get("wheels"))
    return replace(plan, packages=tuple(p for p in plan.packages if p not in sources)), sources


def beside(plan: Plan, below: Plan) -> Plan:
    """The plan without the packages of another one that is installed already."""
    there = {package.name for package in below.packages}
    return replace(plan, packages=tuple(package for package in plan.packages if package.name not in there))


def over(plan: Plan, below: Plan, *, names: FoundationNames) -> Plan:
    """What an image's two layers hold together: what is ``below`` as it is, and what the plan adds to it.

    What counts as foundation only because nothing else brings it (setuptools by triton) is for the second layer.
    """
    added = (p if names.owns(p.name) else replace(p, layer=APPLICATION) for p in beside(plan, below).packages)
    return replace(plan, packages=(*below.packages, *added))


def require_wheel(name: str, version: str, table: Mapping[str, Any], *, built: Collection[str]) -> None:
    """Raise NoWheelError where a release has only a source distribution and isn't named in ``build``."""
    if table.get("wheels") or table.get("archive") or table.get("directory") or name in built:
        return
    raise NoWheelError(
        f"{name} {version} has no wheel for the target platform and Python, only a source distribution",
        hint=wheelless.hint(name),
    )


def to_toml(plan: Plan, *, layer: Layer | None = None, python: str) -> str:
    """The plan, or one layer of it, as ``pylock.toml`` text: its files are for one Python (``3.11``) alone."""
    import tomlkit

    chosen = plan.packages if layer is None else plan.layer(layer)
    return tomlkit.dumps(
        {
            "lock-version": "1.0",
            "created-by": "mlenv",
            "requires-python": f"=={'.'.join(python.split('.')[:2])}.*",
            "packages": [dict(package.table) for package in chosen],
        }
    )


def from_toml(text: str, *, backend: str, source: str, foundation: Collection[str]) -> Plan:
    """Read back what ``to_toml`` wrote; ``foundation`` names the packages of that layer."""
    import tomllib

    packages = tuple(
        Planned(
            name=table["name"],
            version=table.get("version", ""),
            layer=FOUNDATION if table["name"] in foundation else APPLICATION,
            table=table,
        )
        for table in tomllib.loads(text)["packages"]
    )
    return Plan(backend=backend, source=source, packages=packages)


def _with_index(table: Mapping[str, Any], index: str | None) -> dict[str, Any]:
    """With its index named, uv finds the file in its cache without asking anybody."""
    named = {key: value for key, value in table.items() if key != "marker"}
    if index is not None and "archive" not in table and not index.startswith("file:"):
        named["index"] = index
    return named


def _held_to(pin: Pin, table: Mapping[str, Any]) -> dict[str, Any]:
    """The package's table with only the files whose SHA-256 the lock lists."""
    known = {value.partition(":")[2] for value in pin.hashes if value.startswith("sha256:")}
    if pin.version is not None and table.get("version") not in (pin.version, None):
        raise FindingError(
            f"{pin.name} resolved to {table.get('version')}, the lock says {pin.version}", hint="run `mlenv lock`"
        )
    held = {key: value for key, value in table.items() if key not in ("wheels", "sdist", "archive")}
    wheels = [wheel for wheel in table.get("wheels", []) if sha256(wheel) in known]
    if wheels:
        held["wheels"] = wheels
    for single in ("sdist", "archive"):
        if single in table and sha256(table[single]) in known:
            held[single] = table[single]
    if "directory" in table or wheels or "sdist" in held or "archive" in held:
        return held
    raise IntegrityError(
        f"{pin.requirement.split(' ')[0]}: no file that the index offers has a hash that the lock lists",
        hint="the release's files were replaced, or the lock's hashes were changed: "
        "compare with the index before you trust either",
    )


def sha256(file: Mapping[str, Any]) -> str:
    """The SHA-256 of a file of a PEP 751 table, empty where none is listed."""
    return str(file.get("hashes", {}).get("sha256", ""))
