"""Real git repositories for tests: no settings of this machine's, a user of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.interpreter import Finished

_TIMEOUT_SECONDS = 120
_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    **{
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "A test"), ("EMAIL", "test@example.invalid"), ("DATE", "2026-01-01T00:00:00Z"))
    },
}


def git_variables() -> dict[str, str]:
    """The variables for git and what starts it; those of a git that runs the tests (a hook's) are left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "SSL" in name}
    return {**kept, **_SETTINGS}


@dataclass(frozen=True)
class Repository:
    """A work tree at ``root``; ``make`` makes one."""

    root: Path
    variables: Mapping[str, str] = field(default_factory=git_variables)

    @classmethod
    def make(cls, root: Path) -> Repository:
        """A repository with everything in ``root`` committed on ``main``."""
        made = cls(root)
        made.git("init", "-q", "-b", "main")
        made.commit("as it was")
        return made

    def try_git(self, *words: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run git, however it ends."""
        done = subprocess.run(
            ["git", *words],
            cwd=self.root,
            env={**self.variables, **(env or {})},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        return Finished(code=done.returncode, out=done.stdout, err=done.stderr)

    def git(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run git, which must succeed; returns what it wrote."""
        done = self.try_git(*words, env=env)
        assert done.code == 0, done
        return done.out

    def commit(self, message: str) -> str:
        """Commit everything, hooks left out; returns the revision."""
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    @property
    def changed(self) -> list[str]:
        """What ``git status`` lists, untracked files among it, ignored ones too."""
        return self.git("status", "--porcelain", "--ignored").splitlines()


def files_of(root: Path) -> Iterator[str]:
    """The files of a work tree that are tracked or could be: no ignored ones."""
    listed = Repository(root).git("ls-files", "-co", "--exclude-standard", "-z").split("\0")
    yield from (name for name in listed if name and (root / name).is_file())
