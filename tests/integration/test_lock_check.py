"""``mlenv lock --check`` on locks that the real uv made; what is found, in all its kinds, is in unit/test_drift.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlenv import freshness
from support.index import Dropped, LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Package, fake_foundation

CPU = fake_foundation("cpu")


@dataclass
class Locked:
    """A project that was locked; since then no index answers and uv's cache is gone."""

    root: Path
    run: RunProgram

    def check(self, *args: str, env: Mapping[str, str | None] | None = None) -> Finished:
        return self.run("lock", "--check", *args, cwd=self.root, env=env)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))

    def line(self, fragment: str) -> int:
        lines = (self.root / "requirements.txt").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if fragment in line)

    def snapshot(self) -> dict[Path, tuple[int, bytes]]:
        """Every file with its time and content."""
        files = (path for path in self.root.parent.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def locked(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, uv_cache: Path) -> Locked:
    index.add("pytorch-cpu", *CPU.family).add("default", *CPU.ordinary, Package("app", "1.0", requires=("lib",)))
    index.add("default", Package("lib", "1.0"), Package("marked", "1.0"))
    files = {
        "requirements.in": 'app>=1\nmarked; python_version >= "3"\nabsent; sys_platform == "win32"\n-r more.in\n',
        "more.in": "lib\n",
        "constraints/cpu.txt": CPU.overlay,
        "uv.toml": f'[[index]]\nname = "pytorch-cpu"\nurl = "{index.url("pytorch-cpu")}"\nexplicit = true\n',
        "pyproject.toml": '[tool.mlenv]\npython = "3.11"\n',
    }
    root = project(files)
    done = run_mlenv("lock", cwd=root, env={"UV_DEFAULT_INDEX": index.url("default")})
    assert done.code == 0, done.err
    shutil.rmtree(uv_cache)
    shutil.rmtree(root / ".mlenv")
    for name in ("default", "pytorch-cpu"):
        index.fail(name, Dropped())
    index.requests.clear()
    return Locked(root=root, run=run_mlenv)


def test_a_lock_that_mlenv_wrote_is_current_and_nothing_is_asked_or_written(
    locked: Locked, index: LoopbackIndex, uv_cache: Path
) -> None:
    before = locked.snapshot()
    done = locked.check(env={"UV_DEFAULT_INDEX": index.url("default")})
    assert (done.code, done.out, done.err) == (0, "requirements.txt is current (6 packages)\n", "")
    assert locked.snapshot() == before
    assert index.requests == []
    assert not uv_cache.exists()


def test_uv_is_not_started(locked: Locked) -> None:
    """With nothing on PATH, and a cache that can't be made."""
    assert locked.check(env={"PATH": "", "UV_CACHE_DIR": "/dev/null/cache"}).code == 0


def test_it_works_in_a_folder_that_may_not_be_written(locked: Locked) -> None:
    locked.root.chmod(0o555)
    try:
        assert locked.check().code == 0
    finally:
        locked.root.chmod(0o755)


def test_it_takes_milliseconds(locked: Locked) -> None:
    """Mostly Python's start; uv would take longer than all of it. The best of three, as others may be busy."""
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        locked.check()
        spent.append(time.perf_counter() - start)
    assert min(spent) < 1


def test_comments_and_order_do_not_matter(locked: Locked) -> None:
    absent, marked = 'absent; sys_platform=="win32"', 'marked ; python_version>="3"'
    (locked.root / "requirements.in").write_text(f"# sorted\n-r more.in\n\n{absent}\nApp >= 1  # why\n{marked}\n")
    lines = (locked.root / "constraints/cpu.txt").read_text().splitlines()
    (locked.root / "constraints/cpu.txt").write_text("\n".join(["# pinned", *reversed(lines)]))
    assert locked.check().code == 0


def test_every_finding_is_told_with_its_line_and_one_hint(locked: Locked) -> None:
    lines = [locked.line(f"mlenv {what} ") for what in ("input: more.in", "overlay: constraints/cpu.txt", "python:")]
    locked.edit("more.in", "lib", "lib>=2")
    locked.edit("constraints/cpu.txt", "torchaudio", "# torchaudio")
    locked.edit("pyproject.toml", "3.11", "3.12")
    done = locked.check()
    assert done.code == 1
    assert done.out.splitlines() == [
        f"error: requirements.txt:{lines[0]}: more.in was changed since the lock was made",
        f"error: requirements.txt:{lines[1]}: constraints/cpu.txt was changed since the lock was made",
        f"error: requirements.txt:{lines[2]}: the lock is for Python 3.11, the settings want 3.12",
        "error: more.in:1: lib>=2 is not satisfied: the lock has 1.0",
        "hint: run `mlenv lock`",
    ]


def test_an_edited_body_is_told_from_what_is_in_it(locked: Locked) -> None:
    text = (locked.root / "requirements.txt").read_text()
    first = next(line for line in text.splitlines() if "--hash" in line)
    (locked.root / "requirements.txt").write_text(text.replace(first, "    --hash=md5:" + "ab" * 16) + "torch==2.0\n")
    done = locked.check()
    assert done.code == 1
    told = [line.partition(": ")[2] for line in done.out.splitlines()]
    assert told[0].endswith("the pins were changed outside mlenv (by hand, by a bot or by another tool)")
    assert told[1] == f"requirements.txt:{locked.line('app==')}: app has a weak hash"
    assert (
        told[2]
        == f"requirements.txt:{locked.line('torch==2.0')}: torch is foundation and does not belong into the lock"
    )


def test_findings_as_json(locked: Locked) -> None:
    locked.edit("requirements.txt", "lib==1.0", "lib==1.1")
    done = locked.check("--json")
    told = json.loads(done.out)
    assert (done.code, told["exit_code"], told["current"]) == (1, 1, False)
    line = locked.line("mlenv body")
    assert [(f["kind"], f["path"], f["line"]) for f in told["findings"]] == [("lock-edited", "requirements.txt", line)]


def test_a_lock_that_another_mlenv_is_wanted_for_is_not_judged(locked: Locked) -> None:
    """Written by that other one, whose line of untouched files this one would take for a yes."""
    locked.edit("pyproject.toml", "[tool.mlenv]", '[tool.mlenv]\nrequired-version = ">=99"')
    lock = locked.root / "requirements.txt"
    text = freshness.unstamped(lock.read_text())
    inputs = ("requirements.in", "more.in")
    lock.write_text(freshness.stamped(text, locked.root, inputs, {}, before=freshness.seen(locked.root, inputs, {})))
    done = locked.check()
    assert (done.code, "error: pyproject.toml:2: " in done.err) == (3, True)


@pytest.mark.parametrize("workspace", [".", ".."])
@pytest.mark.parametrize("line", ["lib>=2", "--pre"])
def test_github_is_told_the_file_from_the_checkout_on(locked: Locked, workspace: str, line: str) -> None:
    """Of a finding, and of an error; the job's working directory is no matter."""
    locked.edit("more.in", "lib", line)
    checkout = (locked.root / workspace).resolve()
    done = locked.check("--output-format", "github", env={"GITHUB_WORKSPACE": str(checkout)})
    file = (locked.root / "more.in").relative_to(checkout)
    assert f"::error file={file},line=1,title=mlenv::" in done.out


def test_github_is_told_the_file_from_where_it_runs_on(locked: Locked) -> None:
    locked.edit("more.in", "lib", "lib>=2")
    name = locked.root.name
    words = ("lock", "--check", "--project", name, "--output-format", "github")
    done = locked.run(*words, cwd=locked.root.parent, env={"GITHUB_WORKSPACE": None})
    assert f"::error file={name}/more.in,line=1,title=mlenv::lib>=2 is not satisfied: the lock has 1.0" in done.out


def test_a_missing_lock_is_exit_1(locked: Locked) -> None:
    (locked.root / "requirements.txt").unlink()
    assert locked.check().code == 1


@pytest.mark.parametrize("option", [("-U",), ("-P", "app"), ("--dry-run",)])
def test_it_goes_with_no_option_that_would_change_the_lock(locked: Locked, option: tuple[str, ...]) -> None:
    assert locked.check(*option).code == 2


def test_requirements_that_cannot_be_used_are_exit_3(locked: Locked) -> None:
    locked.edit("more.in", "lib", "--index-url https://mirror.invalid/simple")
    done = locked.check()
    assert (done.code, "error: more.in:1: " in done.err) == (3, True)


def test_a_lock_that_is_no_text_is_exit_3(locked: Locked) -> None:
    (locked.root / "requirements.txt").write_bytes(b"\xff\xfe\x00")
    assert locked.check().code == 3


def test_the_quick_yes_imports_no_command_line_parser(locked: Locked) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlenv", "lock", "--check"],
        cwd=locked.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("requirements.txt is current (")
    assert "mlenv.freshness" in done.stderr
    assert "click" not in done.stderr
