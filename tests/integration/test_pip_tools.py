"""The same input compiled by the real pip-compile and by mlenv; and who else reads what mlenv writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlenv import lockfile
from support.index import LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import FakeFoundation, Package, fake_foundation
from support.world import make_world

CPU = fake_foundation("cpu")
PACKAGES = (
    Package("Flask_Like", "1.0", requires=("Click-Like>=7", "jinja.like[fast]")),
    Package("click-like", "8.1", requires=('colorama-like; sys_platform == "win32"',)),
    Package("jinja.like", "3.0", extras={"fast": ("speed-ups",)}),
    Package("speed-ups", "0.3"),
    Package("speed-ups", "0.3", kind="sdist"),
    Package("speed-ups", "2.0"),
    Package("tool", "2.0", requires=("click-like",), extras={"x": ("old-py",)}),
    Package("old-py", "1.0"),
    Package("trainer", "1.0", requires=("torch>=2", "click-like", "setuptools")),
    Package("setuptools", "80.0"),
    Package("colorama-like", "0.4"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Requirements, pip-compile's options for both, whether the foundation is there."""

    name: str
    requirements: str
    options: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    foundation: FakeFoundation | None = None


CASES = (
    Case(name="names that are spelled in several ways", requirements="FLASK-like\nTool\n"),
    Case(name="extras", requirements="tool[x]\njinja-like[fast]\n"),
    Case(name="markers", requirements='old-py ; python_version < "4"\ntool\nabsent; sys_platform == "win32"\n'),
    Case(name="a marker on what another package brings too", requirements='tool[x]\nold-py ; python_version < "4"\n'),
    Case(
        name="includes and constraints",
        requirements="-r more/base.in\n-c limits.txt\nflask-like\n",
        files={"more/base.in": "click-like\n", "limits.txt": "speed-ups<1\n"},
    ),
    Case(name="no extras", requirements="tool[x]\nflask-like\n", options=("--strip-extras",)),
    Case(name="no annotations", requirements="tool[x]\n", options=("--no-annotate",)),
    Case(name="annotations on a line", requirements="flask-like\ntool\n", options=("--annotation-style=line",)),
    Case(name="a foundation", requirements="trainer\nflask-like\n", foundation=CPU),
    Case(name="a foundation that is asked for", requirements="trainer\ntorch>=2\n", foundation=CPU),
)


class Both:
    """mlenv and pip-compile in one project, on one index."""

    def __init__(self, index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram, case: Case):
        family = case.foundation.family if case.foundation else ()
        self.index, self.run_mlenv, self.case = index, run_mlenv, case
        index.add("default", *PACKAGES)
        if case.foundation is not None:
            index.add("default", *case.foundation.everything)
        pins = "".join(f"{package.name}=={package.version}\n" for package in family) or "# nothing\n"
        tables = f'[[index]]\nname = "pytorch-cpu"\nurl = "{index.url("default")}"\nexplicit = true\n'
        files = {"requirements.in": case.requirements, "constraints/cpu.txt": pins, "uv.toml": tables, **case.files}
        self.root = project({**files, "roots.in": pins})
        self.unsafe = [f"--unsafe-package={package.name}" for package in family] or ["--unsafe-package=nothing"]

    def mlenv(self, *words: str) -> Finished:
        return self.run_mlenv(*words, cwd=self.root, env={"UV_DEFAULT_INDEX": self.index.url("default")})

    def pip_compile(self, output: str) -> subprocess.CompletedProcess[str]:
        options = [*self.case.options]
        options += [] if "--strip-extras" in options else ["--no-strip-extras"]
        quiet = ["--quiet", "--no-header", "--no-emit-index-url", "--no-emit-trusted-host", "--generate-hashes"]
        sources = ["requirements.in", *(["roots.in"] if self.case.foundation else [])]
        where = ["--index-url", self.index.url("default"), "--cache-dir", str(self.root.parent / "pip-tools")]
        command = [sys.executable, "-m", "piptools", "compile", *quiet, *where, *options, *self.unsafe]
        return subprocess.run(
            [*command, "--output-file", output, *sources],
            cwd=self.root,
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )

    def body(self, name: str) -> list[str]:
        """The lines below the header, without the lines that say why something was left out."""
        lines = lockfile.body_of((self.root / name).read_text()).splitlines()
        return [line for line in lines if line not in lockfile.FOOTER_REASON]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def both(request: pytest.FixtureRequest, index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> Both:
    return Both(index, project, run_mlenv, request.param)


def test_pip_compile_gives_the_same_body_and_churns_nothing_when_it_locks_again(both: Both) -> None:
    done = both.mlenv("lock", *both.case.options)
    assert done.code == 0, done
    ours = both.body("requirements.txt")
    both.pip_compile("theirs.txt")
    assert both.body("theirs.txt") == ours
    both.index.add("default", Package("click-like", "9.0"), Package("old-py", "1.1"))
    both.pip_compile("requirements.txt")
    assert both.body("requirements.txt") == ours


def test_pip_sync_is_content_with_the_environment_of_both_layers(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram
) -> None:
    world = make_world(index, project, run_mlenv)
    world.sync()
    exported = world.run("export", "--backend", "cpu")
    assert exported.code == 0, exported
    (world.root / "both.txt").write_text(exported.out)
    python = world.generation / "bin/python"
    subprocess.run([python, "-m", "ensurepip"], check=True, capture_output=True)  # pip-sync asks the pip that is there
    words = ("sync", "--dry-run", "--python-executable", str(python))
    both, alone = piptools(world.root, *words, "both.txt"), piptools(world.root, *words, "requirements.txt")
    assert "Everything up-to-date" in both.stdout + both.stderr, both
    assert "Would uninstall" in alone.stdout, "the lock alone leaves the foundation out"


def piptools(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "piptools", *words],
        cwd=root,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )


def names(body: Sequence[str]) -> list[str]:
    return [line.partition("=")[0] for line in body if line[:1].isalnum()]


def test_a_lock_of_pip_compile_is_adopted_pin_by_pin(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram
) -> None:
    both = Both(index, project, run_mlenv, Case(name="", requirements="flask-like\ntool\n"))
    both.pip_compile("requirements.txt")
    before = both.body("requirements.txt")
    index.add("default", Package("click-like", "9.0"), Package("flask-like", "2.0"))
    assert both.mlenv("lock").code == 0
    assert both.body("requirements.txt") == before
    assert names(before) == ["click-like", "flask-like", "jinja-like[fast]", "speed-ups", "tool"]
