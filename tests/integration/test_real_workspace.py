"""The example workspace on real packages, with the commands of the how-to. 3 GB with a cold cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlenv import lockfile

pytestmark = pytest.mark.network

ROOT = Path(__file__).parent.parent.parent
MEMBERS = ("apps/retrieval", "apps/trainer", "libs/texts", "notebooks")
LOCKS = ("requirements.txt", "requirements-dev.txt", *(f"{member}/requirements.txt" for member in MEMBERS))


def blocks() -> list[str]:
    """The commands of the how-to, a block each."""
    text = (ROOT / "docs/how-to.md").read_text()
    section = text.split("## Several applications in one repository\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"(?s)```bash\n(.*?)```", section)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real") / "workspace"
    shutil.copytree(ROOT / "examples/workspace", root, ignore=shutil.ignore_patterns(".venv", ".mlenv", "out"))
    return root


def run(command: str, root: Path) -> str:
    """A block of the how-to, run in the workspace's folder; returns what it said on both streams."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"UV_HTTP_RETRIES": "8", **os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_committed_locks_are_current(copied: Path) -> None:
    assert run("mlenv lock --check", copied).count("is current") == len(LOCKS)


def test_the_how_to_from_the_first_command_to_the_last(copied: Path) -> None:
    told = [run(block, copied) for block in blocks()]
    assert len(told) == 5
    listed, synced, trained, asked, tested = told
    assert listed.count("is current") == len(LOCKS)
    assert [f"{member}/.venv (built)" in synced for member in MEMBERS] == [True] * len(MEMBERS)
    assert "nothing to do" in trained
    assert "trained 20 steps on 5 texts" in trained
    assert "An overlay pins the packages that are built for one kind of GPU." in asked
    assert "1 passed" in tested
    pins = {path: lockfile.parse_pins((copied / path).read_text()) for path in LOCKS}
    releases = {pin.name: set[tuple[object, ...]]() for found in pins.values() for pin in found}
    for pin in (pin for found in pins.values() for pin in found):
        releases[pin.name].add((pin.version, pin.hashes))
    assert {name for name, found in releases.items() if len(found) > 1} == set()
    assert "pandas" not in {pin.name for pin in pins["apps/retrieval/requirements.txt"]}


def test_each_environment_is_whole_and_the_foundation_is_on_the_disk_once(copied: Path) -> None:
    sizes: dict[int, int] = {}
    alone = 0
    for member in MEMBERS:
        run(f"mlenv check --member {Path(member).name}", copied)
        done = run(f"uv pip check --python {member}/.venv", copied)
        assert "compatible" in done
        files = [path.lstat() for path in (copied / member / ".venv").resolve().rglob("*")]
        if member == "apps/trainer":
            alone = sum(file.st_blocks for file in files)
        sizes |= {file.st_ino: file.st_blocks for file in files}
    assert sum(sizes.values()) < 1.15 * alone
