"""Text files: read whole as UTF-8, or a ProjectError that says what is in the way; and whether a path is the project's.

Knows nothing of what the text means.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mlenv.errors import ProjectError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_CONFLICT = r"(?m)^(<{7}|={7}|>{7}|\|{7})( |$)"


def read_text(path: Path, *, shown: str, utf16: bool = False, pipe: bool = False) -> str | None:
    """The text of a file without byte order mark, ``\\r\\n`` as ``\\n``, or None where there is none.

    With ``utf16`` a byte order mark of UTF-16 counts: so Windows PowerShell 5 writes what a command prints. With
    ``pipe`` a pipe is read to its end: somebody named it on the command line.
    Raises ProjectError, which names the file ``shown``, where it is no regular file, unreadable or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file() and not (pipe and path.is_fifo()):  # a FIFO would hang
            raise ProjectError("is no regular file", path=shown, hint="move it away, or make it a text file")
        return decoded(path.read_bytes(), shown=shown, utf16=utf16)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProjectError(f"can't be read: {error.strerror}", path=shown, hint="check its permissions") from error


def decoded(data: bytes, *, shown: str, utf16: bool) -> str:
    """The text of a file's bytes, as ``read_text`` gives it. Raises ProjectError."""
    encoding = "utf-16" if utf16 and data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ProjectError("is not UTF-8 text", path=shown, hint="save it as UTF-8") from None


def inside(root: Path, path: str, *, origin: str | None = None, line: int | None = None) -> str:
    """``path`` as POSIX text relative to the project. Raises ProjectError where it, or what it links to, is outside.

    ``origin`` and ``line`` say who named it.
    """
    try:
        resolved, top = (root / path).resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        hint = "is it a link to itself?"
        raise ProjectError(f"{path!r} can't be looked up", path=origin or path, line=line, hint=hint) from error
    if not resolved.is_relative_to(top):
        raise ProjectError(
            f"{path} is outside the project", path=origin or path, line=line, hint="keep it in the project's folder"
        )
    plain = Path(os.path.relpath(root / path, root)).as_posix()
    return plain if not plain.startswith("../") else resolved.relative_to(top).as_posix()


def require_text(root: Path, path: str, *, origin: str | None = None, line: int | None = None) -> str:
    """The text of a file of the project, line ends as ``\\n``. ``origin`` and ``line`` say who named it.

    Raises ProjectError where it is missing, no regular file (a FIFO would hang), unreadable or not UTF-8.
    """
    where, at, subject = (origin, line, f"{path} ") if origin else (path, None, "")
    try:
        mode = (root / path).stat().st_mode
        if not stat.S_ISREG(mode):
            sort = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ProjectError(f"{subject}is {sort}", path=where, line=at, hint="name a text file")
        data = (root / path).read_bytes()
    except FileNotFoundError:
        hint = (
            "correct the path; it is relative to the file that names it" if origin else "create it, or run `mlenv init`"
        )
        raise ProjectError(f"{subject}does not exist", path=where, line=at, hint=hint) from None
    except OSError as error:
        hint = "check what it is and its permissions"
        raise ProjectError(f"{subject}can't be read: {error.strerror}", path=where, line=at, hint=hint) from error
    return _decoded(data, path)


def unix_ends(text: str) -> str:
    """The text with every line end as ``\\n``, a lone ``\\r`` too."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def conflict_line(text: str) -> int | None:
    """The line (1-based) of the first conflict marker of git, or None where none was left."""
    found = re.search(_CONFLICT, text)
    return text.count("\n", 0, found.start()) + 1 if found else None


def _decoded(data: bytes, path: str) -> str:
    if data.startswith(_UTF16):
        raise ProjectError("is UTF-16 text", path=path, line=1, hint="save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ProjectError("is not UTF-8 text", path=path, line=number, hint="save it as UTF-8") from None
    return unix_ends(text)
