from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from mlenv import drift, lockfile, platforms, settings
from mlenv.lockfile import Header, Pin
from mlenv.project import Project

SHA = "sha256:" + "ab" * 32
PINS = (
    Pin(name="demo-app", version="1.5", hashes=(SHA,), via=("-r requirements.in",)),
    Pin(name="demo-lib", version="2.0", hashes=(SHA,), via=("demo-app",)),
)
FILES = {
    "requirements.in": "# what we need\ndemo-app>=1\n-r more.in\n-e ./libs/x\n",
    "more.in": "demo-lib<3\n",
    "libs/x/pyproject.toml": '[project]\nname = "x"\nversion = "1"\ndependencies = ["demo-lib"]\n',
    "constraints/cpu.txt": "torch==2.14.1+cpu\nnumpy<3\n",
    "constraints/cu130.txt": "torch==2.14.1+cu130\n",
    "pyproject.toml": '[tool.mlenv]\npython = "3.11"\n',
}


@dataclass
class Locked:
    """A project whose lock is current until something is changed."""

    root: Path

    def project(self) -> Project:
        nowhere = self.root / "nowhere.toml"
        loaded, _ = settings.load(self.root, environ={}, user_file=nowhere, system_file=nowhere)
        return Project(root=self.root, settings=loaded, environ={})

    def lock(self, *pins: Pin) -> None:
        project = self.project()
        header = Header(
            python="3.11",
            platforms=project.settings.platforms,
            inputs=drift.inputs(project),
            overlays=drift.overlays(project),
            settings=drift.settings(project),
            proven=dict.fromkeys(project.overlays, "torch==2.14.1"),
        )
        self.write("requirements.txt", lockfile.render(header=header, pins=pins or PINS, excluded=["torch"]))

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(dedent(text))

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def found(self) -> list[tuple[str, str]]:
        """(kind, the file and line and message) of every finding."""
        return [(finding.kind, str(finding)) for finding in drift.check_lock(self.project())]

    def line(self, fragment: str) -> int:
        lines = (self.root / "requirements.txt").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if fragment in line)


@pytest.fixture
def locked(tmp_path: Path) -> Locked:
    made = Locked(tmp_path)
    for path, text in FILES.items():
        made.write(path, text)
    made.lock()
    return made


def test_an_untouched_lock_is_current(locked: Locked) -> None:
    assert locked.found() == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("requirements.in", "-e ./libs/x\n-r more.in\n\nDemo_App >= 1   # a reason\n"),
        ("constraints/cpu.txt", "# pinned by the team\nnumpy <3\ntorch==2.14.1+cpu\n"),
        (
            "libs/x/pyproject.toml",
            '[project]\nname = "x"\nversion = "2"\ndescription = "d"\ndependencies = ["demo_lib"]\n',
        ),
        ("pyproject.toml", '[tool.mlenv]\nenvironment = "env"\npython = "3.11"\nkeep = 7\n'),
    ],
)
def test_what_means_the_same_leaves_the_lock_current(locked: Locked, path: str, text: str) -> None:
    """Order, comments, spelling, and settings that shape no lock."""
    locked.write(path, text)
    assert locked.found() == []


@pytest.mark.parametrize(
    ("path", "old", "new", "kind"),
    [
        ("requirements.in", "demo-app>=1", "demo-app>=1.1", "input"),
        ("more.in", "demo-lib<3", "demo-lib<4", "input"),
        ("libs/x/pyproject.toml", "demo-lib", "demo-lib>1", "input"),
        ("constraints/cpu.txt", "numpy<3", "numpy<4", "overlay"),
        ("constraints/cu130.txt", "2.14.1", "2.14.2", "overlay"),
    ],
)
def test_each_changed_input_is_named_with_its_line(locked: Locked, path: str, old: str, new: str, kind: str) -> None:
    line = locked.line(f"mlenv {kind}: {path} ")
    locked.edit(path, old, new)
    told = f"requirements.txt:{line}: {path} was changed since the lock was made"
    assert locked.found() == [(f"lock-{kind}-changed", told)]


def test_a_new_overlay_is_named(locked: Locked) -> None:
    locked.write("constraints/cu126.txt", "torch==2.14.1+cu126\n")
    told = "requirements.txt: constraints/cu126.txt is new since the lock was made"
    assert locked.found() == [("lock-overlay-changed", told)]


def test_a_removed_overlay_is_named(locked: Locked) -> None:
    (locked.root / "constraints/cu130.txt").unlink()
    (kind, told), *rest = locked.found()
    assert (kind, rest) == ("lock-overlay-changed", [])
    assert "constraints/cu130.txt is gone" in told


def test_a_new_include_is_named(locked: Locked) -> None:
    locked.write("late.in", "demo-lib\n")
    locked.edit("more.in", "demo-lib<3", "demo-lib<3\n-r late.in")
    assert [told.partition(": ")[2] for _, told in locked.found()] == [
        "late.in is new since the lock was made",
        "more.in was changed since the lock was made",
    ]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ('python = "3.11"', 'python = "3.12"', "python"),
        ('python = "3.11"', 'python = "3.11"\nplatforms = ["linux-aarch64"]', "platform"),
        ('python = "3.11"', 'python = "3.11"\nbuild = ["demo-app"]', "settings"),
        ('python = "3.11"', 'python = "3.11"\n[tool.mlenv.foundation]\nexclude = ["nvidia-x"]', "settings"),
    ],
)
def test_a_changed_target_or_setting_is_told_with_its_line(locked: Locked, old: str, new: str, kind: str) -> None:
    line = locked.line(f"mlenv {kind}: ")
    locked.edit("pyproject.toml", old, new)
    ((found, told),) = locked.found()
    assert found == f"lock-{kind}-changed"
    assert told.startswith(f"requirements.txt:{line}: ")


def test_an_unproven_backend_is_a_changed_setting(locked: Locked) -> None:
    locked.edit("pyproject.toml", "[tool.mlenv]", '[tool.mlenv]\nunproven = ["cu130"]')
    assert [kind for kind, _ in locked.found()] == ["lock-overlay-changed", "lock-settings-changed"]


def test_without_a_python_setting_the_locks_own_holds(locked: Locked) -> None:
    locked.write("pyproject.toml", "")
    assert locked.found() == []


@pytest.mark.parametrize(
    "edit",
    [
        ("==1.5", "==1.6"),
        (SHA, SHA.replace("ab", "cd")),
        ("    # via demo-app\n", ""),
        ("# torch\n", ""),
        ("demo-lib==2.0", "demo-lib==2.0 "),
    ],
)
def test_an_edited_body_is_found(locked: Locked, edit: tuple[str, str]) -> None:
    locked.edit("requirements.txt", *edit)
    told = "the pins were changed outside mlenv (by hand, by a bot or by another tool)"
    assert locked.found()[0] == ("lock-edited", f"requirements.txt:{locked.line('mlenv body')}: {told}")


@pytest.mark.parametrize(
    ("hashes", "what"),
    [
        ((), "no"),
        (("md5:" + "ab" * 16,), "a weak"),
        (("sha1:" + "ab" * 20, SHA), "a weak"),
        (("sha256:abab",), "a weak"),
    ],
)
def test_a_missing_or_weak_hash_is_found(locked: Locked, hashes: tuple[str, ...], what: str) -> None:
    locked.lock(PINS[0], Pin(name="demo-lib", version="2.0", hashes=hashes))
    line = locked.line("demo-lib==")
    assert locked.found() == [("lock-hash", f"requirements.txt:{line}: demo-lib has {what} hash")]


@pytest.mark.parametrize("name", ["torch", "nvidia-cublas", "triton", "cuda-toolkit"])
def test_a_leaked_foundation_package_is_found(locked: Locked, name: str) -> None:
    locked.lock(*PINS, Pin(name=name, version="2.0", hashes=(SHA,)))
    told = f"requirements.txt:{locked.line(f'{name}==2.0')}: {name} is foundation and does not belong into the lock"
    assert locked.found() == [("lock-foundation", told)]


def test_nvidia_ml_py_is_no_leak(locked: Locked) -> None:
    locked.lock(*PINS, Pin(name="nvidia-ml-py", version="13.1", hashes=(SHA,)))
    assert locked.found() == []


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        (PINS[1:], "requirements.in:2: demo-app>=1 is not satisfied: the lock does not have it"),
        (
            (Pin(name="demo-app", version="0.9", hashes=(SHA,)), PINS[1]),
            "requirements.in:2: demo-app>=1 is not satisfied: the lock has 0.9",
        ),
    ],
)
def test_an_unsatisfied_direct_requirement_is_found(locked: Locked, pins: tuple[Pin, ...], told: str) -> None:
    locked.lock(*pins)
    assert locked.found() == [("lock-unsatisfied", told)]


@pytest.mark.parametrize(
    "line",
    [
        'absent; sys_platform == "win32"',
        'absent; python_version < "3.11"',
        'absent; platform_machine == "aarch64"',
        'absent; implementation_name == "pypy"',
        "torch>=2",
        "demo-app[fast]>=1.5",
        "demo-app>=1.5rc1",
    ],
)
def test_a_requirement_that_asks_nothing_of_this_lock_is_satisfied(locked: Locked, line: str) -> None:
    locked.write("more.in", f"{line}\n")
    locked.lock()
    assert locked.found() == []


def test_a_wheel_url_satisfies_its_requirement(locked: Locked) -> None:
    url = "https://host.invalid/direct-1.0-py3-none-any.whl"
    locked.write("more.in", f"direct @ {url}\n")
    locked.lock(*PINS, Pin(name="direct", url=url, hashes=(SHA,)))
    assert locked.found() == []


def test_conflict_markers_are_told_with_their_lines_and_nothing_else(locked: Locked) -> None:
    locked.edit("requirements.txt", "demo-lib==2.0", "<<<<<<< ours\ndemo-lib==2.0")
    line = locked.line("<<<<<<<")
    assert locked.found() == [("lock-conflict", f"requirements.txt:{line}: a conflict marker of git was left")]


def _without_own_lines(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# mlenv"))


def _newer(text: str) -> str:
    return text.replace("mlenv scheme: 1", f"mlenv scheme: {lockfile.SCHEME + 1}")


def _torn(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# mlenv settings"))


def _unreadable(text: str) -> str:
    return text.replace("mlenv scheme: 1", "mlenv scheme: one")


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        (_without_own_lines, "lock-foreign", "mlenv lock"),
        (_newer, "lock-newer", "upgrade mlenv"),
        (_torn, "lock-torn", "mlenv lock"),
        (_unreadable, "lock-torn", "mlenv lock"),
    ],
)
def test_a_lock_that_mlenv_cannot_judge_is_told_apart(
    locked: Locked, change: Callable[[str], str], kind: str, hint: str
) -> None:
    locked.write("requirements.txt", change((locked.root / "requirements.txt").read_text()))
    (finding,) = drift.check_lock(locked.project())
    assert (finding.kind, hint in (finding.hint or "")) == (kind, True)


def test_no_lock_is_a_finding(locked: Locked) -> None:
    (locked.root / "requirements.txt").unlink()
    assert locked.found() == [("lock-missing", "requirements.txt: there is no lock")]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux-x86_64", ("linux", "Linux", "posix", "x86_64")),
        ("linux-aarch64", ("linux", "Linux", "posix", "aarch64")),
        ("windows-x86_64", ("win32", "Windows", "nt", "AMD64")),
        ("macos-arm64", ("darwin", "Darwin", "posix", "arm64")),
    ],
)
def test_a_targets_variables_do_not_come_from_this_machine(platform: str, expected: tuple[str, ...]) -> None:
    variables = platforms.environment(platform, "3.13")
    assert tuple(variables[n] for n in ("sys_platform", "platform_system", "os_name", "platform_machine")) == expected
    assert (variables["python_version"], variables["python_full_version"]) == ("3.13", "3.13.0")
    assert (variables["platform_release"], variables["platform_version"]) == ("", "")
