"""Cases, each a folder in ``cases/``: what somebody has, types and gets.

``project/`` holds the project's files and ``indexes.toml`` what the loopback indexes offer. ``session.txt`` has the
commands (``$ mlenv ...``), each with what it says and its exit status; ``requirements.txt`` is the lock at the end.
Overlays and uv.toml are made from the foundations of indexes.toml where the project has none.

After a wanted change: ``REWRITE_CASES=1 pytest tests/functional``, then read the diff. A new case needs ``project/``,
``indexes.toml`` and the ``$`` lines of ``session.txt``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.index import Dropped, LoopbackIndex
from support.interpreter import RunProgram
from support.wheels import FakeFoundation, Package, fake_foundation

CASES = sorted(path.parent for path in Path(__file__).parent.glob("cases/*/session.txt"))
REWRITE = os.environ.get("REWRITE_CASES") == "1"
_FILTERS = (
    (re.compile(r"127\.0\.0\.1:\d+"), "loopback"),
    (re.compile(r"(?<=/simple/)[a-z]+(?=/ can't be reached)"), "NAME"),
    (re.compile(r"\(\d+\.\d s\)"), "(N s)"),
    (re.compile(r"(?<=proven  )\d+\.\d\d$", re.MULTILINE), "N"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, index: LoopbackIndex, run_mlenv: RunProgram, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(case / "project", root)
    _offer(index, tomllib.loads((case / "indexes.toml").read_text()), root)
    expected = (case / "session.txt").read_text()
    commands = [line.removeprefix("$ ") for line in expected.splitlines() if line.startswith("$ ")]
    session = "".join(_run(command, index, run_mlenv, root) for command in commands)
    lock = root / "requirements.txt"
    assert "Traceback" not in session, session
    if REWRITE:
        _rewrite(case, session, lock)
    assert session == expected
    assert _text(lock) == _text(case / "requirements.txt")


def _offer(index: LoopbackIndex, described: dict[str, Any], root: Path) -> None:
    foundations = [fake_foundation(**table) for table in described.get("foundation", [])]
    for foundation in foundations:
        _offer_foundation(index, foundation, root)
    for table in described.get("package", []):
        index.add(table.pop("index", "default"), Package(table.pop("name"), table.pop("version"), **table))
    names = [f"pytorch-{foundation.backend}" for foundation in foundations] + described.get("named", [])
    tables = [f'[[index]]\nname = "{n}"\nurl = "{index.url(n)}"\nexplicit = true\n' for n in dict.fromkeys(names)]
    _write_unless_there(root / "uv.toml", "\n".join(tables))
    for name in described.get("unreachable", []):
        index.fail(name, Dropped())


def _offer_foundation(index: LoopbackIndex, foundation: FakeFoundation, root: Path) -> None:
    """With the label of a build in its versions the family is on that build's own index, else on the default one."""
    own = "+" in foundation.family[0].version
    index.add(f"pytorch-{foundation.backend}" if own else "default", *foundation.family)
    index.add("default", *foundation.companions, *foundation.ordinary)
    if own:
        _write_unless_there(root / f"constraints/{foundation.backend}.txt", foundation.overlay)


def _write_unless_there(path: Path, text: str) -> None:
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _run(command: str, index: LoopbackIndex, run_mlenv: RunProgram, root: Path) -> str:
    words = shlex.split(command)
    assert words.pop(0) == "mlenv"
    done = run_mlenv(*words, cwd=root, env={"UV_DEFAULT_INDEX": index.url("default")})
    said = done.err + done.out
    for pattern, replacement in _FILTERS:
        said = pattern.sub(replacement, said)
    said = "".join(f"{line.rstrip()}\n" for line in said.splitlines())
    return f"$ {command}\n{said}" + (f"[exit status {done.code}]\n" if done.code else "") + "\n"


def _rewrite(case: Path, session: str, lock: Path) -> None:
    (case / "session.txt").write_text(session)
    if lock.exists():
        shutil.copy(lock, case / "requirements.txt")
    else:
        (case / "requirements.txt").unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
