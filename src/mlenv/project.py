"""A project as mlenv sees it: its folder, its settings and its files, each parsed once, when first asked for."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv import lockfile
from mlenv.errors import MlenvError, ProjectError, UsageError, did_you_mean
from mlenv.location import CONSTRAINTS
from mlenv.report import Finding
from mlenv.settings import COMMAND_LINE, PROJECT_FILE, line_of
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.catalogue import Catalogue, Channel
    from mlenv.foundation import FoundationNames
    from mlenv.indexes import Indexes
    from mlenv.lockfile import Lock, Pin
    from mlenv.overlay import Overlay
    from mlenv.plugins import Plugins
    from mlenv.record import Record
    from mlenv.requirements import Asked, Requirements
    from mlenv.settings import Settings
    from mlenv.workspace import Member, Workspace


@dataclass(frozen=True, kw_only=True)
class Project:
    """One project. ``notes`` are what the settings had to say. Files are read at first use; errors name them.

    ``alone`` is the backend whose own lock it is looked at through, beside ``main_lock``; None for the main lock.
    ``channel`` is where its foundation comes from. ``tried`` are overlays that take the place of the files'. ``bare``:
    neither requirements nor lock are read. ``edited`` has texts of requirements files, by path, that are not written
    yet. ``member`` is the member of a workspace that it is looked at as, beside the settings of the ``whole`` and the
    ``known`` workspace; where it is ``resolving``, the development lists count as well. ``beside`` are locks whose
    pins are installed with its own. ``tell`` is called with what a file that is read had to say, ``reread`` for the
    project as its files are now.
    """

    root: Path
    settings: Settings
    environ: Mapping[str, str]
    notes: tuple[Finding, ...] = ()
    alone: str | None = None
    main_lock: str = ""
    tried: Mapping[tuple[Channel, str], Overlay] = field(default_factory=dict)
    channel: Channel = "stable"
    member: Member | None = None
    whole: Settings | None = None
    known: Workspace | None = None
    bare: bool = False
    resolving: bool = False
    beside: tuple[str, ...] = ()
    edited: Mapping[str, str] = field(default_factory=dict)
    tell: Callable[[Finding], None] = field(default=lambda _: None, repr=False, compare=False)
    reread: Callable[[], Project] | None = field(default=None, repr=False, compare=False)

    def now(self) -> Project:
        """The project as its files are now, for who had to wait for its lock. Raises ProjectError."""
        if self.reread is None:
            return replace(self)
        whole = replace(self.reread().of_all, channel=self.channel)
        return whole if self.member is None else whole.of_member(whole.workspace.member(self.member.name))

    @property
    def locks(self) -> tuple[Project, ...]:
        """The project as each of its locks sees it: the main one, then those of backends with a lock of their own."""
        own = tuple(self.of_lock(backend) for backend in self.overlays if self._own_lock(backend) is not None)
        return (self, *own) if self.locked_overlays or not own else own

    @property
    def all_locks(self) -> tuple[Project, ...]:
        """``locks``, and at a workspace's root those of every member."""
        members = self.workspace.members if self.member is None else ()
        return (*self.locks, *(lock for member in members for lock in self.of_member(member).locks))

    def of_lock(self, backend: str) -> Project:
        """The project as the lock that serves ``backend`` sees it; this one where that is the main lock."""
        own = self._own_lock(backend)
        if own is None or self.alone is not None:
            return self
        python = self.settings.python or (self.target_python[0] if self.lock_text is not None else None)
        settings = replace(self.settings, lock=own, python=python)
        return replace(self, settings=settings, alone=backend, main_lock=self.settings.lock)

    @property
    def main_pins(self) -> tuple[Pin, ...]:
        """The pins of the main lock, whatever state it is in."""
        main = replace(self, settings=replace(self.settings, lock=self.main_lock), alone=None)
        return main.lock.pins if main.lock is not None else ()

    def _own_lock(self, backend: str) -> str | None:
        chosen = self.settings.per_backend.get(backend)
        return chosen.lock if chosen is not None else None

    @property
    def locked_overlays(self) -> Mapping[str, Overlay]:
        """The overlays that this lock is for."""
        if self.alone is not None:
            return {self.alone: self.overlay(self.alone)}
        return {name: overlay for name, overlay in self.overlays.items() if self._own_lock(name) is None}

    @property
    def lock_path(self) -> Path:
        """Where the lock is."""
        return self.root / self.settings.lock

    @property
    def state(self) -> Path:
        """mlenv's own folder: generations, its lock file, plans. Each member has one."""
        return self.root / (self.member.folder if self.member is not None else "") / ".mlenv"

    @cached_property
    def lock_text(self) -> str | None:
        """The lock as it is on disk, or None. Raises ProjectError where it can't be read."""
        text = None if self.bare else read_text(self.lock_path, shown=self.settings.lock)
        more = [read_text(self.root / path, shown=path) or "" for path in self.beside]
        return text if text is None or not more else "\n".join([text, *map(lockfile.body_of, more)])

    @cached_property
    def lock(self) -> Lock | None:
        """The parsed lock, or None where there is none."""
        return None if self.lock_text is None else lockfile.parse(self.lock_text, path=self.settings.lock)

    @cached_property
    def overlays(self) -> Mapping[str, Overlay]:
        """Every overlay of the project by backend, the settings' selection applied. Raises ProjectError."""
        found = self.of_all.overlay_files
        for keys, name in self._named_backends():
            if name not in found:
                raise self._no_overlay(keys, name, found)
        chosen = {name: found[name] for name in (self.settings.backends or found)}
        return {name: self.tried.get(("stable", name), overlay) for name, overlay in chosen.items()}

    @cached_property
    def overlay_files(self) -> Mapping[str, Overlay]:
        """Every overlay there is, by backend. Raises ProjectError."""
        from mlenv.overlay import load_overlays

        return load_overlays(self.root, CONSTRAINTS)

    def _named_backends(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Every backend that the settings name, with the keys that do."""
        settings = self.settings
        yield from ((("backends",), name) for name in settings.backends or ())
        yield from ((("unproven",), name) for name in settings.unproven)
        yield from ((("backends", name), name) for name in settings.per_backend)

    def _no_overlay(self, keys: tuple[str, ...], name: str, found: Collection[str]) -> MlenvError:
        """What is wrong where the settings, or the command line, name a backend without overlay."""
        missing = f"there is no {CONSTRAINTS}/{name}.txt (there are: {', '.join(found) or 'none'})"
        hint = self._overlay_hint(name, found)
        if keys == ("backends",) and self.settings.origins.get("backends") == COMMAND_LINE:
            return UsageError(f"--backend {name}: {missing}", hint=hint)
        where = f"[tool.mlenv.backends.{name}]" if len(keys) > 1 else f"[tool.mlenv] {keys[0]}"
        message = f"{where} names {name}, and {missing}"
        return ProjectError(message, path=PROJECT_FILE, line=line_of(self.root, keys), hint=hint)

    def require_chosen(self, backend: str) -> None:
        """Raise ProjectError where there is an overlay of that name and the line ``backends`` leaves it out."""
        chosen, origin = self.settings.backends, self.settings.origins.get("backends", "")
        if not chosen or backend in chosen or backend not in self.of_all.overlay_files or origin == COMMAND_LINE:
            return
        folder = self.member.folder if self.member is not None and origin.startswith(f"{self.member.folder}/") else ""
        path = f"{folder}/{PROJECT_FILE}" if folder else PROJECT_FILE
        raise ProjectError(
            f"[tool.mlenv] backends is {', '.join(chosen)}, and leaves {backend} out",
            path=path,
            line=line_of(self.root / folder, ("backends",)),
            hint=f"add {backend} to that line, then `mlenv lock`; or take {' or '.join(chosen)}",
        )

    def _overlay_hint(self, name: str, found: Collection[str]) -> str:
        """The backend that may have been meant, where none of that name can be added by ``mlenv init``."""
        adding = self.catalogue.overlay_hint(name)
        known = found or [backend for backend in self.catalogue.backends if self.catalogue.newest_release(backend)]
        unknown = self.catalogue.newest_release(name) is None
        nearest = did_you_mean(name, sorted(known, reverse=True), otherwise="") if unknown else ""
        return f"{nearest} if not, {adding}" if nearest else adding

    @cached_property
    def requirements(self) -> Requirements:
        """The requirements files, includes resolved; at a workspace's root those of all members that are resolved
        together. Raises ProjectError with file and line."""
        from mlenv.requirements import Requirements, read_all

        if self.bare:
            return Requirements(roots=(), files=())
        return read_all(self.root, list(self._asked()), packages=self.workspace.packages, edited=self.edited)

    def _asked(self) -> Iterator[Asked]:
        from mlenv.local_projects import Chosen
        from mlenv.requirements import Asked

        own = self.member
        if own is not None:
            yield _asked_by(own)
            return
        members = [member for member in self.workspace.together if self.resolving or not member.group]
        if not members or any((self.root / path).is_file() for path in self.settings.requirements):
            settings = self.settings
            chosen = Chosen(extras=settings.extras, groups=settings.groups)
            there = [path for path in settings.requirements if not members or (self.root / path).is_file()]
            yield Asked(paths=tuple(there), chosen=chosen, constraints=settings.constraints)
        yield from map(_asked_by, members)

    @cached_property
    def workspace(self) -> Workspace:
        """The members that this project has, or is one of. Raises ProjectError."""
        if self.known is not None:
            return self.known
        from mlenv.workspace import read

        return read(self.root, self.whole or self.settings)

    @property
    def apart(self) -> tuple[Finding, ...]:
        """At a workspace's root: a note that names the members that its lock says nothing of."""
        names = [member.name for member in self.workspace.members if member.isolated] if self.member is None else []
        if not names:
            return ()
        import shlex

        message = f"without {', '.join(names)} (isolated): `--member {shlex.quote(names[0])}` looks there"
        return (Finding(kind="members-apart", message=message, severity="note"),)

    def of_member(self, member: Member) -> Project:
        """The project as one member sees it: its own requirements, lock and environment."""
        settings = replace(member.settings, index_urls=self.settings.index_urls)
        whole = self.whole or self.settings
        view = replace(
            self, settings=settings, whole=whole, known=self.workspace, member=member, alone=None, resolving=False
        )
        if self.member is None and self.alone is None and not self.resolving:
            vars(view)["of_all"] = self  # the lock of all is read once, however many members look at it
        return view

    @cached_property
    def of_all(self) -> Project:
        """The project as the workspace's root sees it."""
        if self.whole is None and self.alone is None:
            return self
        return replace(self, settings=self.whole or self.settings, whole=None, member=None, alone=None)

    def of_groups(self, names: Collection[str]) -> tuple[Project, ...]:
        """The project as each of the development lists sees it. Raises UsageError where there is none of that name."""
        known = self.workspace.groups
        if names and self.settings.isolated:
            raise UsageError(
                "an isolated member has pins of its own, which a development list need not agree with",
                hint="leave --group out, or require what is wanted in the member's own files",
            )
        for name in names:
            if name not in known:
                raise UsageError(f"there is no group {name!r}", hint=self._group_hint(name, known))
        return tuple(self.of_all.of_member(member) for member in self.workspace.members if member.name in names)

    def _group_hint(self, name: str, known: Collection[str]) -> str:
        """Where the group is, if one of the pyproject.toml's has it: it is a part of what that member requires."""
        own = self.settings.requirements
        everybody = (path for member in self.workspace.members for path in member.settings.requirements)
        for path in dict.fromkeys((*own, *everybody)):
            if path.endswith(PROJECT_FILE) and _has_group(read_text(self.root / path, shown=path) or "", name):
                return f'write groups = ["{name}"] into [tool.mlenv] of {path}, which has that group; then `mlenv lock`'
        return did_you_mean(name, known, otherwise=f'[tool.mlenv.workspace] members = ["requirements-{name}.in"]')

    def with_groups(self, groups: Collection[Project]) -> Project:
        """The project with what development lists require, at the pins of their locks, which agree with its own."""
        if not groups:
            return self
        files = [path for group in groups for path in group.settings.requirements]
        settings = replace(self.settings, requirements=(*self.settings.requirements, *files))
        member = None if self.member is None else replace(self.member, settings=settings)
        beside = tuple(group.settings.lock for group in groups)
        return replace(self, settings=settings, member=member, whole=self.whole or self.settings, beside=beside)

    @cached_property
    def indexes(self) -> Indexes:
        """The indexes of uv.toml and of this machine."""
        from mlenv.indexes import load_indexes

        found = load_indexes(self.root, environ=self.environ, index_urls=self.settings.index_urls)
        for note in found.notes:
            self.tell(note)
        return found

    @cached_property
    def upload_bounds(self) -> str:
        """What uv.toml says of upload times, one ``key = value`` line each: it shapes the lock. Raises ProjectError."""
        text = read_text(self.root / "uv.toml", shown="uv.toml") or ""
        if not text and not self.settings.index:
            return ""
        from mlenv.indexes import bind, parse

        found = parse(text, path="uv.toml", folder=self.root)
        bind(self.settings.index, "any", found)  # raises where an index is not there
        said = found.forwarded
        return "".join(f"{key} = {said[key]}\n" for key in sorted(said) if key.startswith("exclude-newer"))

    @cached_property
    def plugins(self) -> Plugins:
        """The packages beside mlenv that bring backends."""
        from mlenv.system.entry_points import installed

        return installed()

    @cached_property
    def catalogue(self) -> Catalogue:
        """Backends and releases: mlenv's, those of plugins, and the project's own rows. Raises ProjectError."""
        self.plugins.refuse_broken()
        return self.usable_catalogue

    @cached_property
    def usable_catalogue(self) -> Catalogue:
        """The same, without the plugins that can't be used. Raises ProjectError for the project's own rows."""
        own = self.settings.catalogue
        if not own and not self.plugins.usable:
            from mlenv.catalogue import load

            return load()
        from mlenv import catalogue, catalogue_rows, plugins

        known = catalogue.document()
        brought = [row for plugin in self.plugins.usable for row in plugin.rows.get("backend", ())]
        catalogue_rows.require_complete(own, {**known, "backend": [*known["backend"], *brought]}, wrong=self._wrong_row)
        return plugins.with_rows(self.plugins, own)

    def _wrong_row(self, where: tuple[str | int, ...], message: str, hint: str) -> MlenvError:
        from mlenv.catalogue_rows import written

        keys = ("catalogue", *where)
        line = line_of(self.root, keys)
        return ProjectError(f"{written(keys)} {message}", path=PROJECT_FILE, line=line, hint=hint)

    @cached_property
    def plugin_names(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """(backend of this lock, package that brings it) → the names that it adds to the foundation, where it does."""
        from mlenv.location import may_be_brought

        backends = [name for name in self.locked_overlays if may_be_brought(name)]
        found = self.plugins.usable if backends else ()
        return {(name, p.project): p.names for p in found for name in backends if name in p.backends and p.names}

    @cached_property
    def names(self) -> FoundationNames:
        """Which names the foundation owns here."""
        from mlenv.foundation import known_names

        chosen = self.settings.foundation
        roots = (root.partition("[")[0].strip() for root in chosen.roots)
        known = known_names()
        include = (*chosen.include, *self.settings.unsafe_packages, *roots)
        patterns = (*known.patterns, *(name for names in self.plugin_names.values() for name in names))
        return replace(known, patterns=patterns, include=include, exclude=tuple(chosen.exclude))

    @cached_property
    def target_python(self) -> tuple[str, str]:
        """(the Python the lock is for, where that was said): settings, the lock, .python-version, the running one."""
        if self.settings.python:
            return self.settings.python, "[tool.mlenv] python"
        if self.lock is not None and self.lock.header is not None:
            return self.lock.header.python, self.settings.lock
        if self.lock_text is not None and (adopted := lockfile.foreign_python(self.lock_text)):
            return adopted, self.settings.lock
        pinned = read_text(self.root / ".python-version", shown=".python-version")
        lines = [line.strip() for line in (pinned or "").splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            return _minor(lines[0].removeprefix("cpython-").removeprefix("cpython@")), ".python-version"
        return f"{sys.version_info.major}.{sys.version_info.minor}", "the Python that runs mlenv"

    @property
    def asked_of_foundation(self) -> list[str]:
        """The direct requirements that the foundation owns (``torchcodec``, ``torch>=2.6``): they are in no lock."""
        direct = (entry.requirement for _, entry in self.requirements.direct)
        return sorted({str(asked) for asked in direct if self.names.owns(asked.name)})

    def foundation_only(self) -> Project:
        """The project without requirements and lock, which are left unread."""
        return replace(self, bare=True)

    def of_channel(self, channel: Channel) -> Project:
        """The project with the foundation of another channel."""
        return replace(self, channel=channel)

    def trying(self, overlay: Overlay) -> Project:
        """The project as it would be with another overlay, in that overlay's channel."""
        tried = {**self.tried, (overlay.channel, overlay.backend): overlay}
        return replace(self, channel=overlay.channel, tried=tried)

    def nightly_overlay(self, backend: str) -> Overlay | None:
        """The pins of the nightly channel, or None where there are none yet. Raises ProjectError."""
        from mlenv.overlay import NIGHTLY, parse_overlay

        if (tried := self.tried.get(("nightly", backend))) is not None:
            return tried
        path = f"{CONSTRAINTS}/{NIGHTLY}{backend}.txt"
        return parse_overlay(self.root, path) if (self.root / path).exists() else None

    def record_path(self, backend: str) -> str:
        """Where the record of a backend is, in this channel; POSIX, relative to the project."""
        return f"{CONSTRAINTS}/pylock.{'' if self.channel == 'stable' else 'nightly-'}{backend}.toml"

    def record(self, backend: str) -> Record | None:
        """The record of a backend in this channel, or None where there is none. Raises ProjectError."""
        path = self.record_path(backend)
        text = read_text(self.root / path, shown=path)
        if text is None:
            return None
        from mlenv import record

        return record.parse(text, path=path).require_of(backend, self.channel)

    def overlay(self, backend: str) -> Overlay:
        """The overlay of ``backend`` in this channel. Raises ProjectError where there is none."""
        if self.channel == "nightly":
            found = self.nightly_overlay(backend)
            if found is not None:
                return found
            raise ProjectError(
                f"backend {backend} has no nightly overlay: {CONSTRAINTS}/nightly-{backend}.txt is missing",
                hint=f"`mlenv foundation upgrade --nightly --backend {backend}` writes it",
            )
        if backend not in self.overlays:
            self.require_chosen(backend)
            known = ", ".join(self.overlays) or "none"
            raise ProjectError(
                f"backend {backend} has no overlay: {CONSTRAINTS}/{backend}.txt is missing (there are: {known})",
                hint=self._overlay_hint(backend, self.overlays),
            )
        return self.overlays[backend]


def _asked_by(member: Member) -> Asked:
    from mlenv.local_projects import Chosen
    from mlenv.requirements import Asked

    settings = member.settings
    return Asked(
        paths=settings.requirements,
        chosen=Chosen(extras=settings.extras, groups=settings.groups),
        constraints=settings.constraints,
        folder=member.folder,
        package=member.project if member.installed else None,
    )


def read_text(path: Path, *, shown: str) -> str | None:
    """The text of a file, or None where there is none. Raises ProjectError where it can't be read as UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would hang
            raise ProjectError("is no regular file", path=shown, hint="move it away, or make it a text file")
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise ProjectError(
            "is not UTF-8 text", path=shown, hint=f"restore it: `git checkout -- {shown}`, or delete it"
        ) from error
    except OSError as error:
        hint = "check what it is and its permissions"
        raise ProjectError(f"can't be read: {error.strerror}", path=shown, hint=hint) from error


def _has_group(text: str, name: str) -> bool:
    """Whether ``[dependency-groups]`` of a pyproject.toml has the group; one that can't be parsed has none."""
    import tomllib

    try:
        return name in tomllib.loads(text).get("dependency-groups", {})
    except (ValueError, RecursionError):
        return False


def _minor(version: str) -> str:
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        raise ProjectError(
            f"names no Python version: {version!r}", path=".python-version", hint='write a version such as "3.11"'
        )
    return ".".join(parts[:2])
