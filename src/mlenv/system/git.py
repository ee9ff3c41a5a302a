"""What git keeps of a file: the only place that knows its options. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlenv.errors import UsageError
from mlenv.system import process


def text_at(folder: Path, revision: str, path: str, *, env: Mapping[str, str]) -> str:
    """The text of a file, ``path`` relative to ``folder``, at a revision; or of ``REVISION:PATH``, as git has it.

    Raises UsageError where there is no such revision, file or repository.
    """
    name, colon, of_repository = revision.partition(":")
    known = _run(["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"], folder, env)
    if not name or known.code != 0:
        raise UsageError(
            f"{name or revision!r} is neither a lock file nor a revision that git knows here",
            hint="name a file, or a revision such as HEAD~1 or main",
        )
    place = of_repository if colon else f"./{path}"
    found = _run(["cat-file", "blob", f"{known.out.strip()}:{place}"], folder, env)
    if found.code != 0:
        raise UsageError(f"{name} has no {of_repository or path}", hint="name another revision, or REVISION:PATH")
    return found.out


def unignored(folder: Path, paths: Sequence[str], *, env: Mapping[str, str]) -> list[str]:
    """Those of the paths, relative to ``folder``, that a commit would take; none outside a repository."""
    try:
        found = process.run(["git", "-c", "core.quotePath=false", "check-ignore", "--", *paths], env=env, cwd=folder)
    except OSError:  # without git nothing is committed
        return []
    ignored = found.out.splitlines()
    return [path for path in paths if path not in ignored] if found.code in (0, 1) else []


def _run(words: list[str], folder: Path, env: Mapping[str, str]) -> process.Completed:
    try:
        return process.run(["git", *words], env=env, cwd=folder)
    except OSError as error:
        hint = "install git, or name two lock files"
        raise UsageError(f"git can't be started, and a revision was named: {error.strerror}", hint=hint) from error
