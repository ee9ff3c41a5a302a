"""``mlenv foundation diff``: two records, a record and an environment, or two machines compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path

from mlenv import installed, machine, record
from mlenv.errors import ProjectError, UsageError
from mlenv.installed import Package
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.system import inventory
from mlenv.textfile import read_text
from mlenv.values import dataclass

_KINDS = "a backend that has a record, a record (.toml), an environment, or what `mlenv detect --json` printed (.json)"


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two: what it is called, facts by name, and the foundation that it holds."""

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, Package] = field(default_factory=dict)
    of_record: bool = False


def diff(project: Project, one: str, other: str, *, platform: str, described: bool = False) -> Outcome:
    """What differs between two foundations; ``platform`` says which files of a record count.

    Where that is what ``--machine`` describes, a record must have it. Exit status 1 where anything differs. Raises
    UsageError for what is none of the things that can be compared, and for a ``--machine`` that says nothing.
    """
    left, right = (_side(project, text, platform=platform) for text in (one, other))
    if described:
        _require_platform((left, right), platform)
    _require_foundation(left, right)
    rows = [*_facts(left, right), *_packages(project, left, right)]
    data = {
        "left": left.name,
        "right": right.name,
        "differences": [{"name": name, "left": a, "right": b} for name, a, b in rows],
    }
    if not rows:
        return Outcome(text=_same(left, right), data=data)
    message = f"{left.name} and {right.name} differ in {len(rows)} " + ("thing" if len(rows) == 1 else "things")
    finding = Finding(kind="foundation-differs", message=message)
    return Outcome(text="\n".join(_table(left, right, rows)), data=data, findings=(finding,), exit_code=1)


def _same(left: _Side, right: _Side) -> str:
    if left.packages and right.packages:
        return f"{left.name} and {right.name} hold the same foundation"
    silent = " and ".join(dict.fromkeys(side.name for side in (left, right) if not side.packages))
    return f"{left.name} and {right.name} are alike; {silent} says nothing of what is installed"


def _require_platform(sides: Iterable[_Side], platform: str) -> None:
    """Raise UsageError where no record has files for the platform that was asked for."""
    recorded = [side for side in sides if side.of_record]
    if not recorded:
        told = "--machine says which platform of a record counts, and neither side is a record"
        raise UsageError(told, hint="leave it out; a machine is compared by its file: `mlenv foundation diff A.json B`")
    for side in recorded:
        if side.facts["platform"] != platform:
            told = f"{side.name} has no files for {platform}, which --machine describes"
            raise UsageError(told, hint="name a machine of one of the record's platforms")


def _require_foundation(left: _Side, right: _Side) -> None:
    """Raise UsageError where a machine's file says nothing of what is installed and the other side is no machine."""
    machines = [side for side in (left, right) if "driver" in side.facts]
    silent = [side for side in machines if not side.packages]
    if silent and len(machines) == 1:
        told = f"{silent[0].name} says nothing of what is installed there"
        raise UsageError(told, hint="print it anew in the project on that machine: `mlenv detect --json`")


def _side(project: Project, text: str, *, platform: str) -> _Side:
    path = Path(text)
    if text.endswith(".json"):
        return _of_machine(path, text)
    if text.endswith(".toml"):
        found = read_text(path, shown=text)
        if found is None:
            raise UsageError(f"there is no {text}", hint=f"name {_KINDS}")
        return _of_record(record.parse(found, path=text), text, platform=platform)
    if (path / "pyvenv.cfg").is_file():
        return _of_environment(path, text)
    chosen = project.record(text) if not path.exists() else None
    if chosen is not None:
        return _of_record(chosen, chosen.path, platform=platform)
    if text in project.overlays and not path.exists():
        hint = f"`mlenv foundation record --backend {text}` writes it"
        raise UsageError(f"{text} has no record: {project.record_path(text)} is not there", hint=hint)
    if path.is_absolute() and not path.exists():
        raise UsageError(f"there is no {text}", hint=f"`mlenv sync` makes the environment; or name {_KINDS}")
    raise UsageError(f"{text} can't be compared", hint=f"name {_KINDS}")


def _of_record(found: record.Record, name: str, *, platform: str) -> _Side:
    if platform not in found.sources:
        platform = next(iter(found.sources))
    packages = {p.name: Package(version=p.version, hashes=p.hashes) for p in found.on(platform).values()}
    facts = {"backend": found.backend, "python": _minor(found.python), "platform": platform}
    return _Side(name=name, facts=facts, packages=packages, of_record=True)


def _of_environment(path: Path, name: str) -> _Side:
    """What is installed; the hashes are of the files that the generation was built from."""
    built = installed.of_environment(path)
    if built is None:
        versions = inventory.read(path).versions
        return _Side(name=name, packages={package: Package(version=v) for package, v in versions.items()})
    facts = {"backend": built.backend} | ({"python": built.python} if built.python else {})
    return _Side(name=name, facts=facts, packages=built.packages)


def _of_machine(path: Path, name: str) -> _Side:
    text = read_text(path, shown=name, utf16=True)
    if text is None:
        raise UsageError(f"there is no {name}", hint=f"name {_KINDS}")
    seen = machine.parse(text, path=name)
    document = json.loads(text)
    facts = {
        "platform": seen.platform,
        "driver": seen.driver or "none",
        "cuda": machine.dotted(seen.cuda) if seen.cuda else "none",
        "WSL2": str(seen.wsl).lower(),
        "container": str(seen.container).lower(),
    }
    facts |= {f"GPU {gpu.index}": f"{gpu.name} ({machine.dotted(gpu.compute_capability)})" for gpu in seen.visible_gpus}
    facts |= {f"finding {found.kind}": found.message for found in seen.findings}
    environment = document.get("environment") if isinstance(document, dict) else None
    if not isinstance(environment, dict):
        return _Side(name=name, facts=facts)
    try:
        packages = {
            str(package): Package(version=str(entry["version"]), hashes=frozenset(map(str, entry.get("sha256", ()))))
            for package, entry in environment.get("foundation", {}).items()
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ProjectError(
            "environment.foundation is not as `mlenv detect --json` prints it",
            path=name,
            hint="print it anew on that machine: `mlenv detect --json`",
        ) from error
    facts |= {key: str(environment[key]) for key in ("backend", "python") if key in environment}
    return _Side(name=name, facts=facts, packages=packages)


def _facts(left: _Side, right: _Side) -> list[tuple[str, str, str]]:
    names = [name for name in dict.fromkeys([*left.facts, *right.facts]) if _comparable(name, left, right)]
    pairs = [(name, left.facts.get(name, "-"), right.facts.get(name, "-")) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]


def _comparable(name: str, left: _Side, right: _Side) -> bool:
    """A record says nothing of drivers and GPUs; two machines may well differ in what only one of them has."""
    both_machines = "driver" in left.facts and "driver" in right.facts
    return (name in left.facts and name in right.facts) or both_machines


def _packages(project: Project, left: _Side, right: _Side) -> list[tuple[str, str, str]]:
    if not left.packages or not right.packages:
        return []
    rows = []
    for name in sorted({*left.packages, *right.packages}):
        a, b = left.packages.get(name), right.packages.get(name)
        if (a is None or b is None) and not project.names.owns(name):
            continue  # an environment that mlenv didn't build holds the Application, too
        if a is None or b is None or a.version != b.version:
            rows.append((name, a.version if a else "-", b.version if b else "-"))
        elif a.hashes and b.hashes and not a.hashes & b.hashes:
            rows.append((name, _with_hash(a), _with_hash(b)))
    return rows


def _with_hash(package: Package) -> str:
    return f"{package.version} (sha256 {min(package.hashes)[:8]}…)"


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _table(left: _Side, right: _Side, rows: list[tuple[str, str, str]]) -> list[str]:
    cells = [("", left.name, right.name), *rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(2)]
    return [f"{name.ljust(widths[0])}  {a.ljust(widths[1])}  {b}".rstrip() for name, a, b in cells]
