"""``mlenv diff``: two locks, or one at two revisions, compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.version import InvalidVersion, Version

from mlenv import drift, lockfile
from mlenv.errors import FindingError, UsageError
from mlenv.lockfile import Lock, Pin
from mlenv.project import Project
from mlenv.report import Finding, Outcome
from mlenv.system import git
from mlenv.textfile import read_text
from mlenv.values import dataclass


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """One row: what differs, what each side has (``-`` for nothing), and the kind of change for programs.

    ``change`` is added, removed, upgraded, downgraded, hashes or other of a package, else python, platforms, proven,
    overlay or input.
    """

    change: str
    name: str
    left: str
    right: str


def diff(project: Project, one: str, other: str | None) -> Outcome:
    """What differs between two locks; exit status 1 where anything does.

    Each is a lock file or a git revision of this project's lock; without ``other`` it is the lock as it is. Raises
    UsageError for what is neither, FindingError where there is no lock.
    """
    left, right = _lock(project, one), _lock(project, other) if other is not None else _own(project)
    names = one, other or project.settings.lock
    found = [*_facts(left, right), *_packages(left.pins, right.pins)]
    data = {"left": names[0], "right": names[1], "differences": [vars(difference) for difference in found]}
    if not found:
        return Outcome(text=f"{names[0]} and {names[1]} are alike: {len(left.pins)} packages", data=data)
    kinds = Counter(difference.change for difference in found)
    told = ", ".join(f"{kinds[kind]} {kind}" for kind in ("added", "removed", "upgraded", "downgraded") if kinds[kind])
    message = f"{names[0]} and {names[1]} differ in {len(found)} " + ("thing" if len(found) == 1 else "things")
    finding = Finding(kind="locks-differ", message=f"{message}: {told}" if told else message)
    return Outcome(text="\n".join(_table(names, found)), data=data, findings=(finding,), exit_code=1)


def _own(project: Project) -> Lock:
    if project.lock is None:
        raise FindingError("there is no lock", path=project.settings.lock, hint=drift.RELOCK)
    return project.lock


def _lock(project: Project, text: str) -> Lock:
    """The lock in a file, else at a revision."""
    content = read_text(Path(text), shown=text) if Path(text).is_file() else None
    if content is None:
        content = git.text_at(project.root, text, project.settings.lock, env=project.environ)
    found = lockfile.parse(content, path=text)
    if not found.pins and found.header is None:
        raise UsageError(f"{text} holds no pins: it is no lock", hint="name a lock, or a revision such as HEAD~1")
    return found


def _facts(left: Lock, right: Lock) -> Iterator[_Difference]:
    """What the headers say they were made for and from; nothing where another tool wrote one of the two."""
    one, other = left.header, right.header
    if one is None or other is None:
        return
    pairs = [("python", "python", one.python, other.python)]
    pairs.append(("platforms", "platforms", ", ".join(one.platforms), ", ".join(other.platforms)))
    for change, a, b in (
        ("proven", one.proven, other.proven),
        ("overlay", one.overlays, other.overlays),
        ("input", one.inputs, other.inputs),
    ):
        names = sorted({*a, *b})
        pairs += [(change, name, a.get(name, "-"), b.get(name, "-")) for name in names]
    pairs.append(("input", "settings", one.settings, other.settings))
    for change, name, a_value, b_value in pairs:
        if a_value != b_value:
            yield _Difference(change=change, name=name, left=_short(a_value), right=_short(b_value))


def _short(value: str) -> str:
    """A digest by its first signs; anything else as it is."""
    return f"{value[:15]}…" if value.startswith("sha256:") else value


def _packages(left: Iterable[Pin], right: Iterable[Pin]) -> Iterator[_Difference]:
    one, other = _by_name(left), _by_name(right)
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if a is None or b is None:
            change = "added" if a is None else "removed"
            yield _Difference(change=change, name=name, left=_version(a), right=_version(b))
        elif _version(a) != _version(b):
            yield _Difference(change=_direction(a, b), name=name, left=_version(a), right=_version(b))
        elif set(a.hashes) != set(b.hashes):
            yield _Difference(change="hashes", name=name, left=_with_hashes(a, b), right=_with_hashes(b, a))


def _by_name(pins: Iterable[Pin]) -> Mapping[str, Pin]:
    """Pins by name, with the marker where one name has several."""
    listed = list(pins)
    lines = Counter(pin.name for pin in listed)
    return {pin.name if lines[pin.name] == 1 else f"{pin.name} ; {pin.marker}": pin for pin in listed}


def _version(pin: Pin | None) -> str:
    """What is pinned: the version or URL, with extras and marker where those are part of it."""
    if pin is None:
        return "-"
    extras = f" [{','.join(pin.extras)}]" if pin.extras else ""
    return f"{pin.version or pin.url}{extras}{f' ; {pin.marker}' if pin.marker else ''}"


def _direction(a: Pin, b: Pin) -> str:
    try:
        old, new = Version(a.version or ""), Version(b.version or "")
    except InvalidVersion:
        return "other"
    return "upgraded" if old < new else "downgraded" if old > new else "other"


def _with_hashes(pin: Pin, than: Pin) -> str:
    """The release with how many files it may be, and one of those that the other side doesn't know."""
    own = sorted({*pin.hashes} - {*than.hashes})
    return f"{pin.version or pin.url} ({len(pin.hashes)} hashes{f', {_short(own[0])}' if own else ''})"


def _table(names: tuple[str, str], found: Iterable[_Difference]) -> list[str]:
    cells = [("", *names), *((row.name, row.left, row.right) for row in found)]
    widths = [max(len(cell[column]) for cell in cells) for column in range(2)]
    return [f"{name.ljust(widths[0])}  {a.ljust(widths[1])}  {b}".rstrip() for name, a, b in cells]
