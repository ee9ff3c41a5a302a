"""``mlenv``, and ``python -m mlenv``.

A hook asks ``mlenv lock --check`` at every commit, and nearly always the answer is the quick yes: that needs no command
line parser, whose import takes longer than the answer. Everything else is ``cli``'s.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn


def main() -> None:
    """The console script."""
    try:
        if sys.argv[1:] == ["lock", "--check"] and (told := _quick_yes()) is not None and _said(told):
            return
        from mlenv import cli

        cli.main()
    except SystemExit as ended:
        _leave(ended)
    except KeyboardInterrupt:  # before or after everything that has something to undo
        from mlenv.errors import ExitCode

        raise SystemExit(int(ExitCode.INTERRUPTED)) from None


def _quick_yes() -> str | None:
    from pathlib import Path

    from mlenv import freshness
    from mlenv.location import find_root, workspaces_above

    try:
        root = find_root(Path.cwd().resolve())
        member = any(workspaces_above(root))  # perhaps, and then the lock of all counts as well
        found = None if member else freshness.unchanged(root, {})
    except OSError:  # the folder is gone: the long way says so
        return None
    return freshness.in_words(*found) if found is not None else None


def _leave(ended: SystemExit) -> NoReturn:
    """End at once: taking every module apart, object by object, would be a tenth of a short command's time."""
    import os

    if isinstance(ended.code, int):
        with suppress(OSError):  # what can't be written is told in the usual way
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
    raise ended


def _said(line: str) -> bool:
    """Print; a reader that left changes no exit status. False where it can't be written: the long way says so."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
