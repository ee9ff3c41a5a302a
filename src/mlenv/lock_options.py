"""The options of ``mlenv lock``, most of them pip-compile's, as settings and as what is wished for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, cast

from mlenv.errors import UsageError
from mlenv.location import CONSTRAINTS, looks_compiled
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.locking import Wish
    from mlenv.project import Project


@dataclass(frozen=True, kw_only=True)
class LockOptions:
    """What the command line of ``lock`` says, under the names of its options."""

    sources: tuple[Path, ...]
    packages: tuple[str, ...]
    everything: bool
    refresh_hashes: bool
    dry_run: bool
    check: bool
    resolve: bool
    verify_hashes: bool
    backends: tuple[str, ...]
    python: str | None
    universal: bool
    output: Path | None
    constraints: tuple[Path, ...]
    extras: tuple[str, ...]
    all_extras: bool
    groups: tuple[str, ...]
    unsafe: tuple[str, ...]
    strip_extras: bool
    no_annotate: bool
    annotation_style: str

    def refuse_contradictions(self) -> None:
        """Raises UsageError."""
        changing = self.packages or self.everything or self.dry_run or self.refresh_hashes
        if (self.check or self.verify_hashes) and changing:
            flag = "--check" if self.check else "--verify-hashes"
            raise UsageError(
                f"{flag} only looks; it goes with no upgrade and no --dry-run", hint="leave the others out"
            )
        if self.check and self.verify_hashes:
            raise UsageError("--check asks nobody, and --verify-hashes asks the index", hint="run one after the other")
        if self.resolve and not self.check:
            raise UsageError("--resolve is about --check", hint="`mlenv lock --check --resolve`")
        if self.output is not None and str(self.output) == "-":
            raise UsageError("a lock is a file: -o - is not there", hint="`mlenv export` writes to standard output")
        if self.output is not None and self.output in (*self.sources, *self.constraints):
            raise UsageError(f"-o {self.output} is an input as well", hint="name another file for the lock")
        if len(self.sources) > 1 and self.output is None:
            raise UsageError("several files are named, and no output file", hint="add -o FILE")

    def overrides(self, root: Path) -> dict[str, object]:
        """The settings that the command line decides, as in ``[tool.mlenv]``."""
        sources = tuple(_relative(path, root) for path in self.sources)
        given: dict[str, object] = {
            "backends": self.backends,
            "python": self.python,
            "requirements": sources,
            "lock": _relative(self.output, root) if self.output is not None else _lock_beside(sources),
            "platforms": ("all",) if self.universal else (),
            "constraints": tuple(_relative(path, root) for path in self.constraints),
            "extras": ("*",) if self.all_extras else self.extras,
            "groups": self.groups,
            "unsafe-packages": self.unsafe,
        }
        return {key: value for key, value in given.items() if value}

    def refuse_overwriting(self, project: Project) -> None:
        """Raise UsageError where ``-o`` names a file that is no lock: an input, an overlay, somebody's program."""
        if self.output is None:
            return
        path = project.settings.lock
        inputs = {file.path for file in project.requirements.files}
        text = project.lock_text or ""
        if path in inputs or path.startswith(f"{CONSTRAINTS}/") or (text.strip() and not looks_compiled(text)):
            raise UsageError(
                f"-o {self.output} would write over a file that is no lock", hint="name another file for the lock"
            )

    def wish(self, project: Project, overrides: Mapping[str, object]) -> Wish:
        """What is to be done with the pins that are there, and how the lock is written."""
        from mlenv.lockfile import Style
        from mlenv.locking import Wish  # `--check` does without the resolver
        from mlenv.system.uv import Upgrade

        annotations = cast("Literal['split', 'line', 'none']", "none" if self.no_annotate else self.annotation_style)
        return Wish(
            upgrade=Upgrade(everything=self.everything, packages=self.packages),
            refresh_hashes=self.refresh_hashes,
            style=Style(annotations=annotations, strip_extras=self.strip_extras),
            overrides=overrides,
            command=f"mlenv lock {self._from(project)}".rstrip(),
        )

    def _from(self, project: Project) -> str:
        """Those words with paths from the project's folder, so that the lock is the same from wherever it is made."""
        if not (self.sources or self.output or self.constraints):
            return self.lasting_words()
        settings = project.settings
        here = replace(
            self,
            sources=tuple(Path(path) for path in settings.requirements) if self.sources else (),
            output=Path(settings.lock),
            constraints=tuple(Path(path) for path in settings.constraints) if self.constraints else (),
        )
        return here.lasting_words()

    def lasting_words(self) -> str:
        """The words that make the same lock another time, as pip-compile writes them."""
        return " ".join(self._lasting())

    def _lasting(self) -> Iterator[str]:
        import shlex

        if self.all_extras:
            yield "--all-extras"
        if self.no_annotate:
            yield "--no-annotate"
        elif self.annotation_style != "split":
            yield f"--annotation-style={self.annotation_style}"
        yield from (f"--constraint={shlex.quote(str(path))}" for path in self.constraints)
        yield from (f"--extra={name}" for name in self.extras)
        yield from (f"--group={name}" for name in self.groups)
        output = str(self.output) if self.output is not None else _lock_beside(tuple(map(str, self.sources)))
        if output is not None:
            yield f"--output-file={shlex.quote(output)}"
        if self.strip_extras:
            yield "--strip-extras"
        if self.universal:
            yield "--universal"
        yield from (f"--unsafe-package={name}" for name in self.unsafe)
        yield from (shlex.quote(str(path)) for path in self.sources)


def _relative(path: Path, root: Path) -> str:
    """A path of the command line as the settings have it. Raises UsageError where it is outside the project."""
    absolute = Path(os.path.normpath(path.absolute()))
    if not absolute.is_relative_to(root):
        raise UsageError(f"{path} is outside the project {root}", hint="name a file inside it, or --project DIR")
    return absolute.relative_to(root).as_posix()


def _lock_beside(sources: tuple[str, ...]) -> str | None:
    """Where pip-compile would write: ``dev.in`` → ``dev.txt``."""
    if not sources:
        return None
    path = PurePosixPath(sources[0])
    return "requirements.txt" if path.name == "pyproject.toml" else path.with_suffix(".txt").as_posix()
