"""Every way mlenv can fail, each with its exit code.

The library raises these; only ``cli`` turns them into text and an exit status.
The numbers are the contract's (docs/reference.md is generated from here).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

_MOST_SHOWN = 9


class ExitCode(IntEnum):
    """The exit statuses of the ``mlenv`` command; ``mlenv run`` adds the command's own."""

    DONE = 0
    FINDING = 1
    USAGE = 2
    PROJECT = 3
    NO_BACKEND = 4
    RESOLUTION = 5
    INDEX = 6
    INTEGRITY = 7
    ENVIRONMENT = 8
    BUSY = 9
    FAULT = 70
    NOT_STARTED = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    TERMINATED = 143


class MlenvError(Exception):
    """Something a user can act on.

    ``message`` says what is wrong, ``where`` in which file and line (1-based), ``hint`` is the next command
    to run or the next thing to change. ``where`` is put in front of the message when it is shown. ``detail`` is all
    that another program said about it; it is shown with ``-v``.
    """

    code = ExitCode.FAULT
    meaning = "a fault of mlenv itself"

    def __init__(
        self, message: str, *, hint: str | None = None, path: Path | str | None = None, line: int | None = None
    ):
        """See the class."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.line = line
        self.detail: str | None = None

    @property
    def where(self) -> str | None:
        """``file`` or ``file:line``, or None where no file is to blame."""
        if self.path is None:
            return None
        return f"{self.path}:{self.line}" if self.line is not None else str(self.path)

    def __str__(self) -> str:
        """The message with the place in front."""
        return f"{self.where}: {self.message}" if self.where else self.message


class FindingError(MlenvError):
    """A lock is stale, edited, missing or foreign, or an environment isn't what it should be."""

    code = ExitCode.FINDING
    meaning = (
        "a finding: the lock is stale, edited, missing or foreign, the environment differs, or the gate found something"
    )


class UsageError(MlenvError):
    """The command line asks for something that makes no sense."""

    code = ExitCode.USAGE
    meaning = "wrong usage"


class ProjectError(MlenvError):
    """A project file can't be used as it is."""

    code = ExitCode.PROJECT
    meaning = (
        "project files that can't be used as they are: unreadable, unparsable, refused lines, a platform or Python "
        "the lock isn't made for, a backend without overlay, a root no overlay pins"
    )


class NoBackendError(MlenvError):
    """No backend, or not the one asked for, runs on this machine."""

    code = ExitCode.NO_BACKEND
    meaning = "no backend fits this machine"


class ResolutionError(MlenvError):
    """No set of versions satisfies every requirement."""

    code = ExitCode.RESOLUTION
    meaning = "resolution impossible, or a package is held back"


class ConflictError(ResolutionError):
    """Requirements contradict each other: whoever could loosen one of them would find a set of versions."""


class NoWheelError(ResolutionError):
    """A release has only a source distribution, whose code may not run."""


class PackageIndexError(MlenvError):
    """A package index can't be reached, refuses us, or lacks what is asked of it."""

    code = ExitCode.INDEX
    meaning = "index or network failure"


class UnreachableError(PackageIndexError):
    """Nothing answers where a package index should be."""


class IntegrityError(MlenvError):
    """Bytes that were downloaded or installed differ from their hash.

    ``packages`` are those of which uv's cache holds a damaged copy.
    """

    packages: tuple[str, ...] = ()
    code = ExitCode.INTEGRITY
    meaning = "integrity: downloaded or installed bytes differ from their hash"


class EnvironmentBuildError(MlenvError):
    """The environment could not be built or written; the old one still stands."""

    code = ExitCode.ENVIRONMENT
    meaning = "the environment could not be built or written; the old one still stands"


class NoSpaceError(EnvironmentBuildError):
    """A disk is full, or a quota is used up."""


class BusyError(MlenvError):
    """Another mlenv holds this project."""

    code = ExitCode.BUSY
    meaning = "busy: another mlenv holds this project"


class CommandNotStartedError(MlenvError):
    """What ``mlenv run`` is to start is there and can't be started."""

    code = ExitCode.NOT_STARTED
    meaning = "`mlenv run`: the command is there and can't be started, as a shell says it"


class CommandNotFoundError(MlenvError):
    """There is no command that ``mlenv run`` could start."""

    code = ExitCode.NOT_FOUND
    meaning = "`mlenv run`: there is no such command, as a shell says it"


class FaultError(MlenvError):
    """mlenv itself is wrong."""

    code = ExitCode.FAULT
    meaning = "a fault of mlenv itself"


@contextmanager
def kept(errors: list[ProjectError]) -> Iterator[None]:
    """Put a ProjectError of the block aside, so that what follows is looked at as well; see ``raise_all``."""
    try:
        yield
    except ProjectError as error:
        errors.append(error)


def raise_all(errors: Sequence[ProjectError]) -> None:
    """Raise what was kept, if anything was: one error, at the place of the first, that tells each of them."""
    if not errors:
        return
    first, *others = errors
    if not others:
        raise first
    shown = "".join(f"\n{error}" for error in others[:_MOST_SHOWN])
    more = f"\nand {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
    hints = dict.fromkeys(error.hint for error in errors[: _MOST_SHOWN + 1] if error.hint)
    raise ProjectError(f"{first.message}{shown}{more}", path=first.path, line=first.line, hint="\n".join(hints))


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """A hint that names the known word nearest to ``word``, or ``otherwise`` where none is near."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise
