"""Requirements files: read with an allow-list before uv sees them (CONTRACT, Trust; FACTS, Reliability and trust 7).

Knows files and how they include each other; what a line is, ``requirement_lines`` knows, and what a folder is,
``local_projects``. What uv is given is rendered from the entries: nothing reaches it that was not understood here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.utils import canonicalize_name

from mlenv.errors import ProjectError, kept, raise_all
from mlenv.local_projects import (
    DEPENDENCIES_ALONE,
    Chosen,
    LocalProject,
    find_local_project,
    own_package,
    stated_dependencies,
)
from mlenv.report import Finding
from mlenv.requirement_lines import (
    FolderLine,
    IncludeLine,
    Kind,
    Line,
    Named,
    Refusal,
    WheelUrl,
    canonical,
    classify,
    logical_lines,
    require_named,
)
from mlenv.textfile import inside, require_text, unix_ends
from mlenv.values import dataclass

_DEEPEST = 50  # includes are read recursively
_PROJECT_FILE = "pyproject.toml"
WORKSPACE_FILE = ".mlenv-in/workspace.txt"
"""What mlenv itself adds for a workspace: no file of a project is there."""


@dataclass(frozen=True, kw_only=True)
class Include:
    """``-r`` or ``-c`` of another file; ``path`` is POSIX and relative to the project."""

    path: str
    kind: Kind
    line: int


Entry = Named | WheelUrl | LocalProject | Include
"""A line of a file that was read."""


@dataclass(frozen=True, kw_only=True)
class RequirementsFile:
    """One file; ``path`` is POSIX and relative to the project. ``project`` is the name in a pyproject.toml."""

    path: str
    kind: Kind
    entries: tuple[Entry, ...]
    project: str | None = None


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The files that were asked for (``roots``, ``constraints``) and what they include, each before its includes."""

    roots: tuple[str, ...]
    files: tuple[RequirementsFile, ...]
    constraints: tuple[str, ...] = ()

    @property
    def direct(self) -> tuple[tuple[RequirementsFile, Named | WheelUrl], ...]:
        """Every requirement with its file; constraints and local projects are none."""
        return tuple(
            (file, entry)
            for file in self.files
            if file.kind == "requirement"
            for entry in file.entries
            if isinstance(entry, Named | WheelUrl)
        )

    @property
    def local_projects(self) -> tuple[LocalProject, ...]:
        """Every local project once per folder: extras joined, editable where one line says so."""
        found: dict[str, LocalProject] = {}
        for entry in (entry for file in self.files for entry in file.entries):
            if isinstance(entry, LocalProject):
                found[entry.relative] = found.get(entry.relative, entry).joined(entry)
        return tuple(found.values())

    def mirror(self) -> dict[str, str]:
        """path → text of every file, made from the entries alone: what uv is given."""
        stated = {f"{p.mirrored}/pyproject.toml": p.stated for p in self.local_projects if p.stated is not None}
        return {file.path: render(file) for file in self.files} | stated


# ----------------------------------------------------------------------------------------------------- what callers use


def parse(root: Path, path: str) -> Requirements:
    """Read one requirements file and what it includes. ``path`` is relative to the project ``root``.

    Raises ProjectError with file and line for whatever can't be read, understood or trusted.
    """
    return parse_all(root, (path,))


def parse_all(
    root: Path,
    paths: Sequence[str],
    *,
    chosen: Chosen = DEPENDENCIES_ALONE,
    constraints: Sequence[str] = (),
) -> Requirements:
    """Read several files, ``pyproject.toml`` among them, and what they include; ``constraints`` only bound the rest.

    ``chosen`` says which extras and groups of a pyproject.toml count. Raises ProjectError as ``parse``.
    """
    return read_all(root, [Asked(paths=tuple(paths), chosen=chosen, constraints=tuple(constraints))], packages={})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The files of one project or member, relative to ``root``; ``folder`` (POSIX) is what its local paths start from.

    ``package`` is its own project's name where that is installed with it.
    """

    paths: tuple[str, ...]
    chosen: Chosen = DEPENDENCIES_ALONE
    constraints: tuple[str, ...] = ()
    folder: str = ""
    package: str | None = None


def read_all(
    root: Path, asked: Sequence[Asked], *, packages: Mapping[str, str], edited: Mapping[str, str] | None = None
) -> Requirements:
    """Read what several members ask for, as one. ``packages`` (canonical name → folder) are the workspace's own.

    What requires one of those gets the folder, editable, and what that requires in turn. ``edited`` has texts (by path)
    that are read in place of the files'. Raises ProjectError.
    """
    found: dict[tuple[str, Kind], RequirementsFile] = {}
    roots: list[str] = []
    bounds: list[str] = []
    for member in asked:
        names = [inside(root, path) for path in member.paths]
        chosen = member.chosen
        if (chosen.extras or chosen.groups) and not any(Path(name).name == _PROJECT_FILE for name in names):
            hint = f'only {_PROJECT_FILE} has extras and groups: [tool.mlenv] requirements = ["{_PROJECT_FILE}"]'
            raise ProjectError("extras or groups are asked for, and no such file is", path=_PROJECT_FILE, hint=hint)
        reading = _Reading(
            root=root, folder=member.folder, chosen=chosen, found=found, packages=packages, edited=edited or {}
        )
        for name in names:
            _walk(reading, name, "requirement", ())
        within = [inside(root, path) for path in member.constraints]
        for name in within:
            _walk(reading, name, "constraint", ())
        roots += names
        bounds += within
    own = [member.package for member in asked if member.package is not None]
    files = (*found.values(), *_brought(root, tuple(found.values()), own, packages, edited or {}))
    roots += [file.path for file in files[len(found) :]]
    return Requirements(roots=tuple(dict.fromkeys(roots)), files=files, constraints=tuple(dict.fromkeys(bounds)))


def _brought(
    root: Path,
    files: Sequence[RequirementsFile],
    own: Sequence[str],
    packages: Mapping[str, str],
    edited: Mapping[str, str],
) -> tuple[RequirementsFile, ...]:
    """A file of ours with the workspace's packages that the members are, and that local projects require by name."""
    local = [(file, entry) for file in files for entry in file.entries if isinstance(entry, LocalProject)]
    listed = [entry for file, entry in local if file.project is not None]
    known = {entry.name for _, entry in local}
    waiting = [*own, *(name for _, entry in local for name in entry.requires)]
    while waiting:
        name = waiting.pop()
        if name in packages and name not in known:
            known.add(name)
            listed.append(own_package(root, packages[name], edited=edited))
            waiting += listed[-1].requires
    if not listed:
        return ()
    listed.sort(key=lambda entry: entry.relative)
    return (RequirementsFile(path=WORKSPACE_FILE, kind="requirement", entries=tuple(listed)),)


def meaning(file: RequirementsFile) -> str:
    """Canonical text of the entries as a set: what the digest of an input is computed from.

    Comments, blank lines, order, white space, duplicates and the spelling of names are not in it.
    """
    return "".join(f"{line}\n" for line in sorted({_meaning(entry) for entry in file.entries}))


def render(file: RequirementsFile) -> str:
    """The file as uv may read it: the entries alone, local projects by absolute path, so that it may lie elsewhere."""
    if file.project is not None:
        return _render_project(file.project, file.entries)
    folder = os.path.dirname(file.path)  # noqa: PTH120 - POSIX text, no file
    return "".join(f"{_for_uv(entry, folder)}\n" for entry in file.entries)


def split_index_lines(text: str, *, path: str | None = None) -> tuple[Finding, ...]:
    """Every line that ``parse`` would refuse, each with its replacement; for `mlenv init`, which reports all at once.

    Looks at the text alone: whether included files and local folders exist is not asked. Raises nothing.
    """
    found = []
    for line in logical_lines(text):
        try:
            classify(line)
        except Refusal as refusal:
            found.append(
                Finding(kind=refusal.kind, message=refusal.message, hint=refusal.hint, path=path, line=line.number)
            )
    return tuple(found)


def named_lines(root: Path, path: str, *, what: str) -> tuple[Named, ...]:
    """The lines of a file that may hold nothing but ``name``, specifiers and marker: constraints and overlays.

    ``what`` names such a file in messages. Raises ProjectError with file and line.
    """
    found: list[Named] = []
    wrong: list[ProjectError] = []
    for line in logical_lines(require_text(root, inside(root, path))):
        with kept(wrong), _placed(path, line):
            entry = classify(line)
            if entry is not None:
                found.append(require_named(entry, line, what=what))
    raise_all(wrong)
    return tuple(found)


@contextmanager
def _placed(path: str, line: Line) -> Iterator[None]:
    """A refusal of the line as ProjectError with file and line."""
    try:
        yield
    except Refusal as refusal:
        raise refusal.at(path, line.number) from None


# --------------------------------------------------------------------------------------------------- files and includes


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What is read: the folder of all, the one that local paths start from, what counts of a pyproject.toml, the
    workspace's packages, texts that stand for files, and the files that were found."""

    root: Path
    folder: str
    chosen: Chosen
    packages: Mapping[str, str]
    edited: Mapping[str, str]
    found: dict[tuple[str, Kind], RequirementsFile]


def _walk(reading: _Reading, path: str, kind: Kind, above: tuple[str, ...]) -> None:
    """Read ``path`` and what it includes into ``reading.found``; ``above`` are the files that led here."""
    if (path, kind) in reading.found:
        return
    file = _read_file(reading, path, kind)
    reading.found[path, kind] = file
    root = reading.root
    for entry in file.entries:
        if isinstance(entry, Include):
            chain = (*above, path)
            again = next((name for name in chain if (root / name).resolve() == (root / entry.path).resolve()), None)
            if again is not None:
                circle = " → ".join((*chain[chain.index(again) :], entry.path))
                message = f"the files include each other: {circle}"
                raise ProjectError(message, path=path, line=entry.line, hint="delete this line")
            if len(chain) > _DEEPEST:
                raise ProjectError("includes are nested too deeply", path=path, line=entry.line, hint="join some files")
            _walk(reading, entry.path, entry.kind, chain)


def _read_file(reading: _Reading, path: str, kind: Kind) -> RequirementsFile:
    edited = reading.edited.get(path)
    text = require_text(reading.root, path) if edited is None else unix_ends(edited.removeprefix("\ufeff"))
    if Path(path).name == _PROJECT_FILE:
        return _read_project(reading, path, text)
    entries: list[Entry] = []
    wrong: list[ProjectError] = []
    for line in logical_lines(text):
        with kept(wrong), _placed(path, line):
            entry = classify(line)
            if entry is not None:
                entries.append(_looked_up(reading, path, kind, line, entry))
    raise_all(wrong)
    return RequirementsFile(path=path, kind=kind, entries=tuple(entries))


def _read_project(reading: _Reading, path: str, text: str) -> RequirementsFile:
    """``pyproject.toml`` as a requirements file: ``[project] dependencies``, chosen extras and groups."""
    name, listed = stated_dependencies(path, text, reading.chosen)
    entries = tuple(_or_own_package(reading, entry) for entry in listed)
    return RequirementsFile(path=path, kind="requirement", entries=entries, project=name or "project")


def _or_own_package(reading: _Reading, entry: Named | WheelUrl) -> Named | WheelUrl | LocalProject:
    """The requirement; where it names a package of the workspace, that folder."""
    folder = reading.packages.get(canonicalize_name(entry.requirement.name))
    if folder is None or isinstance(entry, WheelUrl):
        return entry
    extras = tuple(sorted(entry.requirement.extras))
    return own_package(reading.root, folder, extras=extras, line=entry.line, edited=reading.edited)


def _looked_up(
    reading: _Reading, path: str, kind: Kind, line: Line, entry: Named | WheelUrl | FolderLine | IncludeLine
) -> Entry:
    """The entry with its include or folder found. Raises Refusal or ProjectError."""
    root = reading.root
    if isinstance(entry, IncludeLine) and (kind == "requirement" or entry.kind == "constraint"):
        return _included(root, path, line, entry)
    if kind == "constraint":
        return require_named(entry, line, what="a constraints file")
    if isinstance(entry, FolderLine):
        return find_local_project(root, path, line, entry, folder=reading.folder, edited=reading.edited)
    assert not isinstance(entry, IncludeLine)
    return _or_own_package(reading, entry)


def _included(root: Path, path: str, line: Line, target: IncludeLine) -> Include:
    """The include, its path relative to the project: in the file it's relative to the file, as for pip."""
    named = (Path(path).parent / target.path).as_posix()
    found = inside(root, named, origin=path, line=line.number)
    require_text(root, found, origin=path, line=line.number)
    return Include(path=found, kind=target.kind, line=line.number)


# ------------------------------------------------------------------------------------------------------ entries as text


def _meaning(entry: Entry) -> str:
    if isinstance(entry, Include):
        return f"{'-r' if entry.kind == 'requirement' else '-c'} {entry.path}"
    if isinstance(entry, LocalProject):
        extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
        return f"{'-e ' if entry.editable else ''}./{entry.relative}{extras}"
    return canonical(entry.requirement)


def _for_uv(entry: Entry, folder: str) -> str:
    if isinstance(entry, Include):
        path = Path(os.path.relpath(entry.path, folder or ".")).as_posix()
        return f"{'-r' if entry.kind == 'requirement' else '-c'} " + path.replace(" ", "\\ ")
    if isinstance(entry, LocalProject):
        return entry.line_for_resolving()
    return canonical(entry.requirement)


def _render_project(name: str, entries: Sequence[Entry]) -> str:
    import json

    stated = (entry for entry in entries if not isinstance(entry, LocalProject))  # those are in WORKSPACE_FILE
    listed = [json.dumps(_for_uv(entry, ""), ensure_ascii=False) for entry in stated]
    return f'[project]\nname = "{name}"\nversion = "0"\ndependencies = [{", ".join(listed)}]\n'
