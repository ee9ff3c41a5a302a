"""Every failure a user can meet: its exit code, what the message names, its hint, and nothing else changed.

One table for each kind of cause, run with the real uv against a loopback index that fails in the way named.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from support.disks import small_disk
from support.index import (
    CaptivePortal,
    Dropped,
    Fault,
    LoopbackIndex,
    Slow,
    Status,
    Truncated,
    WrongHash,
    unreachable_url,
)
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Package, fake_foundation

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="FIFOs, mounts and signals as on Linux")

CPU = fake_foundation("cpu")
APPLICATION = (
    Package("demo", "1.0", requires=("dep>=1",)),
    Package("demo", "2.0", requires=("dep>=2",)),
    Package("dep", "1.5"),
    Package("dep", "2.5"),
    Package("other", "1.0", requires=("dep<2",)),
    Package("oldpython", "1.0", requires_python=">=3.99"),
    Package("sdist-only", "1.0", kind="sdist"),
)
UV_TOML = """\
[[index]]
name = "main"
url = "{default}"
default = true

[[index]]
name = "pytorch-cpu"
url = "{cpu}"
explicit = true
"""


@dataclass(frozen=True)
class Site:
    """A project with a lock, an index that serves it, and mlenv run in it."""

    root: Path
    index: LoopbackIndex
    run: RunProgram

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def mlenv(self, *words: str, env: Mapping[str, str | None] | None = None) -> Finished:
        return self.run(*words, cwd=self.root, env=env)

    def kept(self) -> dict[str, bytes]:
        """The lock and where the environment points."""
        lock, environment = self.root / "requirements.txt", self.root / ".venv"
        found = {"lock": lock.read_bytes()} if lock.is_file() else {}
        return found | ({"environment": os.fsencode(environment.readlink())} if environment.is_symlink() else {})


@pytest.fixture
def site(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> Site:
    """Not locked yet."""
    index.add("cpu", *CPU.family).add("default", *CPU.ordinary, *APPLICATION)
    uv_toml = UV_TOML.format(default=index.url("default"), cpu=index.url("cpu"))
    files = {"requirements.in": "demo\ndep\n", "constraints/cpu.txt": "torch==2.14.1\n", "uv.toml": uv_toml}
    return Site(root=project({**files, "pyproject.toml": "[tool.mlenv]\n"}), index=index, run=run_mlenv)


@pytest.fixture
def locked(site: Site) -> Site:
    done = site.mlenv("lock")
    assert done.code == 0, done.err
    return site


def assert_told(done: Finished, code: int, words: Sequence[str], hint: str) -> None:
    """The exit code; one ``error:`` with the words, one ``hint:``, few lines, no traceback."""
    told = done.err
    assert done.code == code, told
    assert "Traceback" not in told + done.out
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    hints = [line for line in told.splitlines() if line.startswith("hint: ")]
    assert (len(errors), len(hints)) == (1, 1), told
    message = told[told.index("error: ") : told.index("hint: ")]
    assert len(message.splitlines()) <= 8, told
    for word in words:
        assert word in message, told
    assert hint in hints[0], told


@dataclass(frozen=True)
class Case:
    """A situation: files that are written (None: removed), a command, and what must come of it."""

    name: str
    files: Mapping[str, str | None]
    words: Sequence[str]
    code: int
    told: Sequence[str]
    hint: str
    _: KW_ONLY
    env: Mapping[str, str | None] = field(default_factory=dict)


LOCK = ("lock",)
FILES = (
    Case("no requirements", {"requirements.in": None}, LOCK, 3, ["requirements.in"], "mlenv init"),
    Case("no overlay", {"constraints/cpu.txt": None}, LOCK, 3, ["constraints"], "mlenv init"),
    Case("no lock", {}, ("sync", "--cpu", "--locked"), 1, ["requirements.txt is missing"], "mlenv lock"),
    Case("no environment", {}, ("run", "--", "true"), 1, [".venv does not exist"], "mlenv sync"),
    Case(
        "option line", {"requirements.in": "demo\n--index-url http://x/\n"}, LOCK, 3, ["requirements.in:2:"], "uv.toml"
    ),
    Case("not a requirement", {"requirements.in": "demo\n\n1 two 3\n"}, LOCK, 3, ["requirements.in:3:"], ""),
    Case("remote include", {"requirements.in": "-r http://x/a.in\n"}, LOCK, 3, ["requirements.in:1:"], ""),
    Case("git", {"requirements.in": "a @ git+https://x/y\n"}, LOCK, 3, ["requirements.in:1:"], ""),
    Case("missing include", {"requirements.in": "-r other.in\n"}, LOCK, 3, ["requirements.in:1:", "other.in"], ""),
    Case(
        "overlay not exact",
        {"constraints/cpu.txt": "\ntorch>=2\n"},
        LOCK,
        3,
        ["constraints/cpu.txt:2:"],
        "torch==VERSION",
    ),
    Case(
        "overlay of another",
        {"constraints/cpu.txt": "torch==2.14.1+cu130\n"},
        LOCK,
        3,
        ["constraints/cpu.txt:1:"],
        "+cpu",
    ),
    Case("bad pyproject", {"pyproject.toml": "[tool\n"}, LOCK, 3, ["pyproject.toml:1:", "TOML"], "correct"),
    Case("bad uv.toml", {"uv.toml": "a = 1\nb = \n"}, LOCK, 3, ["uv.toml:2:", "TOML"], "correct"),
    Case(
        "mistyped setting",
        {"pyproject.toml": "[tool.mlenv]\nplatfroms = []\n"},
        LOCK,
        3,
        ["pyproject.toml:2:"],
        "platforms",
    ),
    Case("wrong type", {"pyproject.toml": "[tool.mlenv]\nbuild = 3\n"}, LOCK, 3, ["pyproject.toml:2:", "build"], ""),
    Case(
        "shadowing index",
        {"uv.toml": "[[index]]\nname='a'\nurl='http://x/'\n"},
        LOCK,
        3,
        ["uv.toml:1:"],
        "explicit = true",
    ),
    Case(
        "unknown index", {"pyproject.toml": "[tool.mlenv.index]\n'co-*' = 'co'\n"}, LOCK, 3, ["co-*", "co"], "uv.toml"
    ),
    Case(
        "unknown backend",
        {},
        ("sync", "--backend", "cu999", "--locked"),
        3,
        ["no backend cu999", "cpu"],
        "constraints/cu999.txt",
    ),
    Case("backend to lock", {}, ("lock", "--backend", "cu999"), 2, ["--backend cu999"], "constraints/cu999.txt"),
    Case("not a folder", {}, ("lock", "--project", "nowhere"), 2, ["nowhere"], ""),
    Case("two backends", {}, ("sync", "--cpu", "--backend", "cu130"), 2, ["--cpu", "--backend cu130"], "one of them"),
    Case("no GPU in CI", {}, ("sync",), 2, ["CI"], "--cpu", env={"CI": "1"}),
    Case("bad variable", {}, LOCK, 2, ["MLENV_KEEP"], "", env={"MLENV_KEEP": "many"}),
    Case("bad URL", {}, LOCK, 2, ["UV_DEFAULT_INDEX"], "https://", env={"UV_DEFAULT_INDEX": "ftp://x"}),
    Case("upgrade of nothing", {}, ("lock", "-P", "dmeo"), 2, ["dmeo"], "demo"),
    Case("bad upgrade", {}, ("lock", "-P", "a b"), 2, ["a b"], "mlenv lock -P"),
    Case("upgrade of torch", {}, ("lock", "-P", "torch"), 2, ["torch is foundation"], "constraints/"),
    Case("no such option", {}, ("lock", "--chek"), 2, ["--chek", "--check"], "mlenv lock --help"),
    Case("no such command", {}, ("lokc",), 2, ["lokc", "lock"], "mlenv --help"),
    Case("option without value", {}, ("lock", "-P"), 2, ["-P"], "--help"),
)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_project_files_and_usage(site: Site, case: Case) -> None:
    for path, text in case.files.items():
        if text is None:
            (site.root / path).unlink()
        else:
            site.write(path, text)
    assert_told(site.mlenv(*case.words, env=case.env), case.code, case.told, case.hint)
    assert site.kept() == {}
    assert site.index.count() == 0


FILE_NAMES = ("requirements.in", "constraints/cpu.txt", "uv.toml", "pyproject.toml", "requirements.txt")


@pytest.mark.parametrize("path", FILE_NAMES)
@pytest.mark.parametrize("kind", ["folder", "fifo", "latin-1"])
def test_what_is_no_text_file_is_named_and_never_waited_for(site: Site, path: str, kind: str) -> None:
    target = site.root / path
    target.unlink(missing_ok=True)
    if kind == "latin-1":
        target.write_bytes(b"# \xe9\n")
    else:
        {"folder": os.mkdir, "fifo": os.mkfifo}[kind](target)
    done = site.mlenv("lock")
    words = {"folder": "", "fifo": "regular file", "latin-1": "UTF-8"}[kind]
    assert_told(done, 3, [f"{path}:", words], "")


def test_a_file_that_may_not_be_read(site: Site) -> None:
    for path in FILE_NAMES:
        target = site.root / path
        target.touch()
        target.chmod(0)
        if os.access(target, os.R_OK):
            pytest.skip("the super-user reads everything")
        assert_told(site.mlenv("lock"), 3, [f"{path}:", "Permission denied"], "permissions")
        target.chmod(0o644)


# ------------------------------------------------------------------------------------------------------- resolutions

PINS = "constraints/cpu.txt:1 pins torch==2.14.1"
CONFLICTS = (
    ("unknown package", "demo\nnumpyy\n", ["numpyy was not found", "requirements.in:2 requires numpyy"], "spelling"),
    ("no such release", "demo==9\n", ["no version of demo==9", "requirements.in"], "release"),
    ("two requirements", "demo==2.0\nother\n", ["dep<2", "dep>=2", "requirements.in:"], "loosen"),
    ("against torch", "torch<2.14\n", ["requirements.in:1 requires torch<2.14", PINS], "loosen"),
    ("against its own", "sympy<1.13\n", ["on sympy>=1.13.3", "requirements.in:1 requires sympy<1.13", PINS], "loosen"),
    ("newer Python", "oldpython\n", ["oldpython==1.0 depends on Python>=3.99", "for Python 3."], "[tool.mlenv] python"),
    ("no wheel", "sdist-only\n", ["sdist-only 1.0", "no wheel"], '[tool.mlenv] build = ["sdist-only"]'),
)


@pytest.mark.parametrize(("name", "text", "words", "hint"), CONFLICTS, ids=[row[0] for row in CONFLICTS])
def test_requirements_that_cannot_be_met(locked: Site, name: str, text: str, words: Sequence[str], hint: str) -> None:
    before = locked.kept()
    locked.write("requirements.in", text)
    assert_told(locked.mlenv("lock"), 5, words, hint)
    assert locked.kept() == before


def test_a_bound_of_an_overlay_is_named(locked: Site) -> None:
    locked.write("requirements.in", "dep>=2\n")
    locked.write("constraints/cpu.txt", "torch==2.14.1\ndep<2\n")
    words = ["requirements.in:1 requires dep>=2", "constraints/cpu.txt:2 allows dep<2"]
    assert_told(locked.mlenv("lock"), 5, words, "loosen")


def test_a_long_derivation_is_told_in_three_lines(site: Site) -> None:
    torches = ["2.0.1", "2.1.2", "2.3.0", "2.6.0", "2.7.0", "2.7.1", "2.8.0", "2.9.0"]
    for number, torch in enumerate(torches):
        site.index.add("default", Package("vllm", f"0.{number}", requires=(f"torch=={torch}",)))
        site.index.add("cpu", Package("torch", f"{torch}+cpu"))
    site.write("requirements.in", "demo\nvllm\n")
    done = site.mlenv("lock")
    assert_told(
        done,
        5,
        ["all versions of vllm depend on torch==2.0.1", "requirements.in:2 requires vllm", "pins torch==2.14.1"],
        "-v",
    )
    assert len(done.err[done.err.index("error: ") :].splitlines()) <= 4
    assert "vllm==0.3" in site.mlenv("lock", "-v").err


# ---------------------------------------------------------------------------------------------------------- indexes


class Garbage(LoopbackIndex):
    """Answers every page with what claims to be an index's JSON."""

    def answer(self, path: str, headers: Mapping[str, str]) -> Any:
        kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
        return replace(cast(Any, super().answer(path, headers)), status=200, body=b'{"files": [{', headers=kind)


FAULTS: Mapping[str, tuple[Fault, str, str]] = {
    "401": (Status(401), "401 Unauthorized", "UV_INDEX_<NAME>_USERNAME"),
    "403": (Status(403), "403 Forbidden", "UV_INDEX_<NAME>_USERNAME"),
    "404": (Status(404), "answers 404 for every name: ", "the right URL"),
    "429": (Status(429), "429 Too Many Requests", "later"),
    "500": (Status(500), "500 Internal Server Error", "mirror"),
    "503": (Status(503), "503 Service Unavailable", "mirror"),
    "portal": (CaptivePortal(), "a page that lists no file", "login page"),
    "truncated": (Truncated(), "can't be read", "proxy"),
    "dropped": (Dropped(), "can't be reached: connection closed", "network"),
    "slow": (Slow(5), "can't be reached: operation timed out", "network"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_default_index_fails(site: Site, name: str) -> None:
    fault, words, hint = FAULTS[name]
    site.index.fail("default", fault)
    assert_told(site.mlenv("lock", env={"UV_HTTP_TIMEOUT": "1"}), 6, [words, site.index.url("default")], hint)
    assert site.kept() == {}


@pytest.mark.parametrize("name", ["401", "404", "500", "portal", "dropped"])
def test_the_backends_source_fails_at_sync(locked: Site, name: str) -> None:
    fault, words, _ = FAULTS[name]
    locked.index.fail("cpu", fault)
    before = locked.kept()
    done = locked.mlenv("sync", "--cpu", env={"UV_CACHE_DIR": str(locked.root / "empty-cache")})
    told = "torch was not found" if name == "404" else words  # the one name that this index serves
    assert_told(done, 6, ["the foundation of cpu", told], "--cuda13")
    assert locked.kept() == before


@pytest.mark.parametrize("name", ["401", "500", "portal", "dropped"])
def test_a_named_index_fails(site: Site, name: str) -> None:
    fault, words, _ = FAULTS[name]
    site.index.add("company", Package("company-lib", "1.0")).fail("company", fault)
    with (site.root / "uv.toml").open("a") as file:
        file.write(f'[[index]]\nname = "company"\nurl = "{site.index.url("company")}"\nexplicit = true\n')
    site.write("pyproject.toml", '[tool.mlenv.index]\n"company-*" = "company"\n')
    site.write("requirements.in", "demo\ncompany-lib\n")
    done = site.mlenv("lock")
    assert_told(done, 6, [words, "company"], "")
    assert site.index.count("/default/simple/company-lib") == 0


def test_no_network_at_all(site: Site) -> None:
    site.write("uv.toml", UV_TOML.format(default=unreachable_url(), cpu=unreachable_url()))
    assert_told(site.mlenv("lock"), 6, ["can't be reached: Connection refused"], "")


def test_offline_with_an_empty_cache(site: Site) -> None:
    assert_told(site.mlenv("lock", "--offline"), 6, ["cache", "network is switched off"], "")


def test_an_index_that_sends_garbage(project: ProjectFactory, run_mlenv: RunProgram) -> None:
    with Garbage() as index:
        uv_toml = UV_TOML.format(default=index.url("default"), cpu=index.url("cpu"))
        root = project({"requirements.in": "demo\n", "constraints/cpu.txt": "torch==2.14.1\n", "uv.toml": uv_toml})
        assert_told(run_mlenv("lock", cwd=root), 6, ["can't be read"], "")


def test_a_typing_mistake_alone_is_no_wrong_address(site: Site) -> None:
    """The index is known to work by the other requirement."""
    site.write("requirements.in", "dep\ndmeo\n")
    assert_told(site.mlenv("lock"), 5, ["dmeo was not found"], "spelling")


# --------------------------------------------------------------------------------------------- hashes, disk, programs


def test_a_release_whose_files_were_replaced(locked: Site) -> None:
    locked.index.add("default", Package("demo", "2.0", requires=("dep>=2",), files={"demo/__init__.py": "evil = 1\n"}))
    before = locked.kept()
    done = locked.mlenv("sync", "--cpu", env={"UV_CACHE_DIR": str(locked.root / "empty-cache")})
    assert_told(done, 7, ["demo==2.0", "hash"], "compare with the index")
    assert locked.kept() == before


def test_a_download_that_is_not_what_the_index_lists(locked: Site) -> None:
    locked.index.fail("cpu", WrongHash(), package="torch")
    before = locked.kept()
    done = locked.mlenv("sync", "--cpu", env={"UV_CACHE_DIR": str(locked.root / "empty-cache")})
    assert_told(done, 7, ["torch", "differ from the hash"], "compare with the index")
    assert locked.kept() == before
    assert list((locked.root / ".mlenv" / "gen").iterdir()) == []


def moved(site: Site, folder: Path) -> Site:
    """The same project at ``folder``."""
    for path in site.root.rglob("*"):
        if path.is_file() and ".mlenv" not in path.parts:
            (folder / path.relative_to(site.root)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(site.root)).write_bytes(path.read_bytes())
    return Site(root=folder, index=site.index, run=site.run)


def test_a_full_disk(locked: Site, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kilobytes=200):
        full = moved(locked, tmp_path / "small")
        before = full.kept()
        assert_told(full.mlenv("sync", "--cpu"), 8, ["space"], "")
        assert full.kept() == before
        assert list((full.root / ".mlenv" / "gen").iterdir()) == []
        (full.root / "filler").write_bytes(b"x" * (os.statvfs(full.root).f_bfree * os.statvfs(full.root).f_bsize))
        full.root.joinpath("requirements.in").write_text("dep\n")
        assert_told(full.mlenv("lock"), 8, ["No space left"], "space")
        assert full.kept() == before


def test_a_read_only_project(locked: Site, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kilobytes=2000):
        fixed = moved(locked, tmp_path / "small")
        subprocess.run(["mount", "-o", "remount,ro", str(fixed.root)], check=True)
        for words in (("lock",), ("sync", "--cpu"), ("init", "--backend", "cu130")):
            assert_told(fixed.mlenv(*words), 8, ["can't be written: Read-only file system"], "")
        assert fixed.mlenv("lock", "--check").code == 0


def test_no_such_python(locked: Site) -> None:
    assert_told(locked.mlenv("sync", "--cpu", "--python", "./nowhere"), 3, ["no Python at ./nowhere"], "version")
    assert_told(
        locked.mlenv("sync", "--cpu", "--python", "3.99"), 3, ["requirements.txt", "3.99"], "[tool.mlenv] python"
    )
    (locked.root / "requirements.txt").unlink()
    locked.write("pyproject.toml", '[tool.mlenv]\npython = "3.99"\n')
    assert_told(locked.mlenv("sync", "--cpu"), 3, ["Python 3.99 is not on this machine"], "install it")


def shadow(site: Site, module: str, text: str) -> dict[str, str]:
    """Variables that put a module in front of the one mlenv imports."""
    site.write(f"shadow/{module}.py", text)
    return {"PYTHONPATH": str(site.root / "shadow")}


def test_uv_is_missing(site: Site) -> None:
    gone = shadow(site, "uv", "def find_uv_bin():\n    raise FileNotFoundError('/opt/uv')\n")
    assert_told(site.mlenv("lock", env=gone), 70, ["uv", "can't be started", "/opt/uv"], "reinstall mlenv")
    broken = shadow(site, "uv", f"def find_uv_bin():\n    return {str(site.root / 'uv.toml')!r}\n")
    assert_told(site.mlenv("lock", env=broken), 70, ["can't be started: Permission denied"], "reinstall mlenv")


def test_a_fault_of_mlenv_asks_for_a_report(site: Site) -> None:
    env = shadow(site, "filelock", "raise RuntimeError('boom at https://me:secret@host/')\n")
    done = site.mlenv("lock", env=env)
    assert_told(done, 70, ["RuntimeError: boom at https://****@host/"], "report")
    told = site.mlenv("lock", "-vv", env=env)
    assert told.code == 70
    assert "Traceback (most recent call last)" in told.err
    assert "secret" not in done.err + told.err


# ------------------------------------------------------------------------------------- how it is said, and being ended


def test_errors_as_json_and_quietly(site: Site) -> None:
    site.write("requirements.in", "demo\n--pre\n")
    done = site.mlenv("lock", "--json")
    assert_told(done, 3, ["requirements.in:2:"], "")
    document = json.loads(done.out)
    assert document["exit_code"] == document["error"]["code"] == 3
    assert document["error"]["where"] == "requirements.in:2"
    assert document["error"]["message"] in done.err
    assert document["error"]["hint"] in done.err
    quiet = site.mlenv("lock", "-q")
    assert_told(quiet, 3, ["requirements.in:2:"], "")
    assert quiet.out == ""


def test_usage_errors_as_json(site: Site) -> None:
    done = site.mlenv("lock", "--json", "--chek")
    assert json.loads(done.out)["exit_code"] == done.code == 2


def test_colour_only_where_it_is_asked_for(site: Site) -> None:
    assert "\x1b[" not in site.mlenv("lock", "--chek").err
    assert "\x1b[31m" in site.mlenv("lock", "--color", "always", "--backend", "cu999").err


def started(
    site: Site, *words: str, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    env = {**os.environ, "HOME": str(site.root.parent), "UV_HTTP_RETRIES": "0"}
    argv = [sys.executable, "-m", "mlenv", *words]
    return subprocess.Popen(argv, cwd=site.root, env=env, stdout=stdout, stderr=stderr, encoding="utf-8")


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_reader_that_left_changes_no_exit_status(locked: Site) -> None:
    current = started(locked, "lock", "--check", stdout=closed_pipe())
    assert (current.wait(60), current.communicate()[1]) == (0, "")
    locked.write("requirements.in", "dep\n")
    stale = started(locked, "lock", "--check", stdout=closed_pipe())
    assert (stale.wait(60), stale.communicate()[1]) == (1, "")
    assert started(locked, "lock", "--chek", stderr=closed_pipe()).wait(60) == 2
    assert started(locked, "lock", stdout=closed_pipe(), stderr=closed_pipe()).wait(60) == 0
    assert locked.mlenv("lock", "--check").code == 0


def test_what_can_not_be_written_for_want_of_space_is_told(locked: Site) -> None:
    for words in (("lock", "--check"), ("lock", "--check", "-v"), ("generations", "--json")):
        with Path("/dev/full").open("w") as full:
            done = started(locked, *words, stdout=full.fileno())
            code, said = done.wait(60), done.communicate()[1]
        assert (code, "standard output can't be written: No space left on device" in said) == (8, True), said


def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def children(process: int) -> list[str]:
    """The command lines of what a process started, and of what that started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if parent == process:
            found += [command, *children(int(path.parent.name))]
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal_it_ends_its_children_and_changes_nothing(locked: Site, number: int, code: int) -> None:
    before = locked.kept()
    locked.write("requirements.in", "demo\ndep\nother\n")
    locked.index.fail("default", Slow(20))
    asked = locked.index.count()
    running = started(locked, "lock", "-U")
    until(lambda: locked.index.count() > asked or any("uv" in word for word in children(running.pid)))
    begun = time.monotonic()
    running.send_signal(number)
    _, told = running.communicate(timeout=30)
    assert running.returncode == code, told
    assert time.monotonic() - begun < 5
    assert "Traceback" not in told
    assert "are whole" in told
    assert locked.kept() == before
