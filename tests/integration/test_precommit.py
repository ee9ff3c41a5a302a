"""The hooks of ``.pre-commit-hooks.yaml``, in real git repositories, with the real pre-commit.

pre-commit installs mlenv from this working tree, once; that needs PyPI. While a hook runs no network can be reached.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.git import Repository, files_of, git_variables
from support.index import LoopbackIndex, unreachable_url
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Package, fake_foundation
from support.world import World, make_world

THIS_TREE = Path(__file__).parent.parent.parent
CONFIG = ".pre-commit-config.yaml"
NO_NETWORK = {
    name: unreachable_url() for stem in ("HTTP", "HTTPS", "ALL") for name in (f"{stem}_PROXY", f"{stem.lower()}_proxy")
} | {"NO_PROXY": "", "no_proxy": ""}
HOSTILE = {
    "MLENV_LOCK": "other.txt",
    "MLENV_KEEP": "nonsense",
    "MLENV_INDEX_URL_PYTORCH_CPU": "nonsense",
    "UV_FROZEN": "1",
    "UV_INDEX_URL": "nonsense",
    "UV_DEFAULT_INDEX": "nonsense",
    "PIP_INDEX_URL": "nonsense",
    "PIP_NO_INDEX": "nonsense",
    "VIRTUAL_ENV": "/nowhere",
}


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """mlenv's hooks, installed: where from, at which revision, and pre-commit's own folder."""

    source: Path
    revision: str
    home: Path

    def config(self, *hooks: str) -> str:
        """A configuration with these hooks, each in YAML's flow style."""
        listed = "".join(f"      - {{{hook}}}\n" for hook in hooks)
        return f"repos:\n  - repo: {self.source}\n    rev: {self.revision}\n    hooks:\n{listed}"

    def pre_commit(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
        variables = {**git_variables(), "PRE_COMMIT_HOME": str(self.home), "PRE_COMMIT_COLOR": "never", **(env or {})}
        command = [sys.executable, "-m", "pre_commit", *words]
        done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
        return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


@dataclass(frozen=True, kw_only=True)
class Hooked:
    """A repository whose commits are checked; ``project`` is the folder that mlenv manages in it."""

    hooks: Hooks
    repository: Repository
    project: Path
    world: World

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run the hooks on what is there, all of it staged, without a network."""
        self.repository.git("add", "-A")
        variables = {**NO_NETWORK, **(env or {})}
        return self.hooks.pre_commit("run", "--all-files", *words, cwd=self.repository.root, env=variables)

    def write(self, path: str, text: str) -> None:
        (self.project / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.project / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new, 1))

    def line(self, fragment: str, path: str = "requirements.txt") -> int:
        lines = (self.project / path).read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if fragment in line)

    @property
    def files(self) -> dict[Path, tuple[int, bytes]]:
        """Every file of the work tree with its time and content."""
        paths = (path for path in self.repository.root.rglob("*") if ".git" not in path.parts and path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def told(done: Finished) -> list[str]:
    """What the hook wrote."""
    return done.out.partition("\n\n")[2].splitlines()


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    """This working tree at a revision, and its hooks installed by pre-commit."""
    folder = tmp_path_factory.mktemp("hooks")
    source = folder / "mlenv"
    for name in files_of(THIS_TREE):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(THIS_TREE / name, source / name)
    made = Hooks(source=source, revision=Repository.make(source).commit("this tree"), home=folder / "home")
    user = folder / "user"
    user.mkdir()
    (user / CONFIG).write_text(made.config("id: mlenv-lock-check", "id: mlenv-lock"))
    Repository.make(user)
    done = made.pre_commit("install-hooks", cwd=user)
    assert done.code == 0, done
    return made


@pytest.fixture
def world(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> World:
    """A project with an include in a sub-folder, locked."""
    made = make_world(index, project, run_mlenv)
    made.publish(Package("demo-lib", "1.0"), Package("demo-lib", "1.1"))
    (made.root / "parts").mkdir()
    (made.root / "parts/base.in").write_text("demo-lib<1.1  # the base\n")
    made.configure('python = "3.11"\n')
    made.require("demo-app", "-r parts/base.in")
    shutil.rmtree(made.root / ".mlenv", ignore_errors=True)
    return made


@pytest.fixture
def hooked(hooks: Hooks, world: World) -> Hooked:
    """The project at the root of a repository, with the checking hook."""
    (world.root / CONFIG).write_text(hooks.config("id: mlenv-lock-check"))
    made = Hooked(hooks=hooks, repository=Repository.make(world.root), project=world.root, world=world)
    world.index.requests.clear()
    return made


def test_the_manifest_is_what_pre_commit_reads() -> None:
    words = [sys.executable, "-m", "pre_commit", "validate-manifest", str(THIS_TREE / ".pre-commit-hooks.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.network
def test_a_current_lock_passes_and_nothing_is_written_or_asked(hooked: Hooked) -> None:
    before = hooked.files
    done = hooked.run()
    assert (done.code, told(done)) == (0, [])
    assert "Passed" in done.out
    assert hooked.files == before
    assert hooked.repository.changed == []
    assert hooked.world.index.requests == []


@pytest.mark.network
def test_a_hostile_environment_changes_nothing(hooked: Hooked) -> None:
    """Where no byte changed, where only comments did, and where the lock is stale."""
    assert hooked.run(env=HOSTILE).code == 0
    hooked.edit("requirements.in", "demo-app", "demo-app  # ours")
    assert hooked.run(env=HOSTILE).code == 0
    hooked.edit("requirements.in", "demo-app", "demo-app>=0.1")
    done = hooked.run(env=HOSTILE)
    assert (done.code, done.out) == (1, hooked.run().out)
    assert not (hooked.project / ".mlenv").exists()


@pytest.mark.network
def test_comments_and_order_do_not_matter(hooked: Hooked) -> None:
    hooked.write("requirements.in", "# sorted\n-r parts/base.in\n\ndemo-app  # why\n")
    hooked.edit("parts/base.in", "# the base", "# whose?")
    overlay = (hooked.project / "constraints/cpu.txt").read_text().splitlines()
    hooked.write("constraints/cpu.txt", "\n".join(["# pinned", *reversed(overlay), ""]))
    hooked.edit("pyproject.toml", "[tool.mlenv]", "# ours\n[tool.mlenv]")
    done = hooked.run()
    assert (done.code, told(done)) == (0, [])


def requirements_changed(hooked: Hooked) -> list[str]:
    hooked.edit("requirements.in", "demo-app", "demo-app>=0.5")
    line = hooked.line("mlenv input: requirements.in ")
    return [f"requirements.txt:{line}: requirements.in was changed since the lock was made"]


def an_include_changed(hooked: Hooked) -> list[str]:
    hooked.edit("parts/base.in", "<1.1", ">=1.1")
    line = hooked.line("mlenv input: parts/base.in ")
    unmet = "parts/base.in:1: demo-lib>=1.1 is not satisfied: the lock has 1.0"
    return [f"requirements.txt:{line}: parts/base.in was changed since the lock was made", unmet]


def an_overlay_changed(hooked: Hooked) -> list[str]:
    hooked.edit("constraints/cu130.txt", "torchaudio", "# torchaudio")
    line = hooked.line("mlenv overlay: constraints/cu130.txt ")
    return [f"requirements.txt:{line}: constraints/cu130.txt was changed since the lock was made"]


def a_new_overlay(hooked: Hooked) -> list[str]:
    hooked.write("constraints/cu126.txt", fake_foundation("cu126").overlay)
    return ["requirements.txt: constraints/cu126.txt is new since the lock was made"]


def an_overlay_gone(hooked: Hooked) -> list[str]:
    (hooked.project / "constraints/cu130.txt").unlink()
    line = hooked.line("mlenv overlay: constraints/cu130.txt ")
    return [f"requirements.txt:{line}: constraints/cu130.txt is gone since the lock was made"]


def settings_changed(hooked: Hooked) -> list[str]:
    hooked.edit("pyproject.toml", "[tool.mlenv]", '[tool.mlenv]\nbuild = ["demo-app"]')
    return [f"requirements.txt:{hooked.line('mlenv settings: ')}: the settings that shape the lock were changed"]


def another_python(hooked: Hooked) -> list[str]:
    hooked.edit("pyproject.toml", "3.11", "3.12")
    line = hooked.line("mlenv python: ")
    return [f"requirements.txt:{line}: the lock is for Python 3.11, the settings want 3.12"]


def edited(hooked: Hooked, *more: str) -> list[str]:
    what = "the pins were changed outside mlenv (by hand, by a bot or by another tool)"
    return [f"requirements.txt:{hooked.line('mlenv body: ')}: {what}", *more]


def the_body_edited(hooked: Hooked) -> list[str]:
    hooked.edit("requirements.txt", "demo-lib==1.0", "demo-lib==1.0.1")
    return edited(hooked)


def conflict_markers(hooked: Hooked) -> list[str]:
    hooked.edit("requirements.txt", "demo-lib==1.0 ", "<<<<<<< ours\ndemo-lib==1.0 ")
    hooked.edit("requirements.txt", "filelock==", "=======\n>>>>>>> theirs\nfilelock==")
    lines = [hooked.line(sign) for sign in ("<<<<<<<", "=======", ">>>>>>>")]
    return [f"requirements.txt:{line}: a conflict marker of git was left" for line in lines]


def no_lock(hooked: Hooked) -> list[str]:
    (hooked.project / "requirements.txt").unlink()
    return ["requirements.txt: there is no lock"]


def leaked_foundation(hooked: Hooked) -> list[str]:
    digest = "ab" * 32
    hooked.edit("requirements.txt", "sympy==", f"nvidia-nccl-cu13==2.30 \\\n    --hash=sha256:{digest}\nsympy==")
    line = hooked.line("nvidia-nccl-cu13==")
    leak = f"requirements.txt:{line}: nvidia-nccl-cu13 is foundation and does not belong into the lock"
    return edited(hooked, leak)


def no_hash(hooked: Hooked) -> list[str]:
    lines = (hooked.project / "requirements.txt").read_text().splitlines()
    at = hooked.line("demo-lib==")
    hooked.write("requirements.txt", "\n".join([*lines[: at - 1], "demo-lib==1.0", *lines[at + 1 :], ""]))
    return edited(hooked, f"requirements.txt:{at}: demo-lib has no hash")


def a_foreign_lock(hooked: Hooked) -> list[str]:
    text = (hooked.project / "requirements.txt").read_text()
    hooked.write("requirements.txt", "".join(f"{li}\n" for li in text.splitlines() if not li.startswith("# mlenv")))
    return ["requirements.txt: this lock was not written by mlenv: nothing says what it was made from"]


STALENESS = (
    requirements_changed,
    an_include_changed,
    an_overlay_changed,
    a_new_overlay,
    an_overlay_gone,
    settings_changed,
    another_python,
    the_body_edited,
    conflict_markers,
    no_lock,
    leaked_foundation,
    no_hash,
    a_foreign_lock,
)


@pytest.mark.network
@pytest.mark.parametrize("make_stale", STALENESS, ids=lambda function: function.__name__)
def test_a_lock_that_is_not_current_fails_with_the_reason(
    hooked: Hooked, make_stale: Callable[[Hooked], list[str]]
) -> None:
    reasons = make_stale(hooked)
    hooked.repository.commit("stale")
    before = hooked.files
    done = hooked.run()
    assert done.code == 1
    assert "- exit code: 1" in done.out
    lines = told(done)
    assert [line for line in lines if line.startswith("error: ")] == [f"error: {reason}" for reason in reasons]
    assert lines[len(reasons)].startswith("hint: run `mlenv lock`")
    assert hooked.files == before
    assert hooked.repository.changed == []
    assert hooked.world.index.requests == []


@pytest.mark.network
def test_files_that_cannot_be_used_are_told_apart_by_the_exit_code(hooked: Hooked) -> None:
    hooked.edit("parts/base.in", "demo-lib", "--pre\ndemo-lib")
    done = hooked.run()
    assert (done.code, "- exit code: 3" in done.out) == (1, True)
    assert told(done)[0].startswith("error: parts/base.in:1: ")


@pytest.mark.network
def test_a_project_that_wants_another_mlenv_is_refused(hooked: Hooked) -> None:
    hooked.edit("pyproject.toml", "[tool.mlenv]", '[tool.mlenv]\nrequired-version = ">=99"')
    done = hooked.run()
    assert (done.code, "- exit code: 3" in done.out) == (1, True)
    assert told(done)[0].startswith("error: pyproject.toml:2: ")


@pytest.fixture
def committing(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> Hooked:
    """The hook as it is used: installed into the repository, started by git."""
    assert hooked.hooks.pre_commit("install", cwd=hooked.project).code == 0
    for name, value in {"PRE_COMMIT_HOME": str(hooked.hooks.home), **NO_NETWORK}.items():
        monkeypatch.setenv(name, value)
    return replace(hooked, repository=Repository(hooked.project))


@pytest.mark.network
def test_git_commits_nothing_while_the_lock_is_stale(committing: Hooked) -> None:
    committing.edit("requirements.in", "demo-app", "demo-app>=0.5")
    refused = committing.repository.try_git("commit", "-a", "-m", "stale")
    assert refused.code == 1
    assert "requirements.in was changed since the lock was made" in refused.err


@pytest.mark.network
def test_a_deleted_overlay_is_noticed(committing: Hooked) -> None:
    """pre-commit counts no deleted file among those that a commit touches."""
    committing.repository.git("rm", "-q", "constraints/cu130.txt")
    refused = committing.repository.try_git("commit", "-m", "one backend less")
    assert refused.code == 1
    assert "constraints/cu130.txt is gone since the lock was made" in refused.err


@pytest.mark.network
def test_what_is_not_staged_stops_no_commit(committing: Hooked) -> None:
    committing.edit("requirements.in", "demo-app", "demo-app>=0.5")
    committing.write("notes.md", "unrelated\n")
    committing.repository.git("add", "notes.md")
    committing.repository.git("commit", "-m", "notes")
    assert committing.repository.git("show", "--name-only", "--format=").split() == ["notes.md"]


@pytest.fixture
def two_projects(hooks: Hooks, world: World, tmp_path: Path) -> Hooked:
    """A repository with the project twice, in ``apps/x`` and ``apps/y``, each with its hook, and none at its root."""
    root = tmp_path / "many"
    for name in ("x", "y"):
        shutil.copytree(world.root, root / "apps" / name)
    entries = [f"id: mlenv-lock-check, name: {name}, args: [--project, apps/{name}]" for name in ("x", "y")]
    (root / CONFIG).write_text(hooks.config(*entries))
    return Hooked(hooks=hooks, repository=Repository.make(root), project=root / "apps/x", world=world)


@pytest.mark.network
def test_projects_in_sub_folders_are_checked_each_for_itself(two_projects: Hooked) -> None:
    assert two_projects.run().code == 0
    reasons = an_include_changed(two_projects)
    done = two_projects.run()
    assert done.code == 1
    assert [line.replace(".", "") for line in done.out.splitlines() if line.startswith(("x", "y"))] == [
        "xFailed",
        "yPassed",
    ]
    assert [line for line in told(done) if line.startswith("error: ")] == [f"error: {reason}" for reason in reasons]
    assert not list(two_projects.repository.root.rglob(".mlenv"))


@pytest.mark.network
def test_the_other_hook_makes_the_lock(hooks: Hooks, hooked: Hooked) -> None:
    """pre-commit fails a hook that wrote something; the next run has nothing left to do."""
    online = {"UV_DEFAULT_INDEX": hooked.world.index.url("pypi")}
    hooked.write(CONFIG, hooks.config("id: mlenv-lock", "id: mlenv-lock-check"))
    hooked.repository.commit("both hooks")
    hooked.edit("parts/base.in", "<1.1", ">=1.1")
    hooked.repository.git("add", "parts/base.in")
    first = hooks.pre_commit("run", cwd=hooked.project, env=online)
    assert (first.code, "- files were modified by this hook" in first.out) == (1, True)
    assert hooked.repository.changed == ["M  parts/base.in", " M requirements.txt", "!! .mlenv/"]
    assert "demo-lib==1.1 " in (hooked.project / "requirements.txt").read_text()
    hooked.repository.git("add", "requirements.txt")
    assert hooks.pre_commit("run", cwd=hooked.project, env=online).code == 0


@pytest.mark.network
def test_the_other_hook_leaves_commits_alone_that_cannot_matter(hooks: Hooks, hooked: Hooked) -> None:
    hooked.write(CONFIG, hooks.config("id: mlenv-lock"))
    hooked.repository.commit("the other hook")
    hooked.write("train.py", "print()\n")
    hooked.repository.git("add", "-A")
    done = hooks.pre_commit("run", cwd=hooked.project, env=NO_NETWORK)
    assert (done.code, "Skipped" in done.out) == (0, True)


@pytest.mark.network
def test_one_hook_checks_every_member_of_a_workspace(hooks: Hooks, hooked: Hooked) -> None:
    """What it says is right about members that the commit leaves alone: all are looked at, in milliseconds."""
    table = '[tool.mlenv.workspace]\nmembers = ["apps/*"]\n'
    hooked.write("pyproject.toml", f'[tool.mlenv]\npython = "3.11"\n{table}')
    for name, text in {"x": "demo-app\n", "y": "demo-lib\n-r ../../parts/base.in\n"}.items():
        (hooked.project / "apps" / name).mkdir(parents=True)
        hooked.write(f"apps/{name}/requirements.in", text)
    assert hooked.world.run("lock").code == 0
    hooked.repository.commit("a workspace")
    done = hooked.run()
    assert (done.code, told(done)) == (0, [])

    # One member's list; a file that only one of them includes; a lock that somebody edited.
    both = ["requirements.txt", "apps/y/requirements.txt"]
    changed = {"apps/y/requirements.in": "demo-lib", "parts/base.in": "demo-lib<1.1"}
    for path, line in changed.items():
        hooked.edit(path, line, f"{line},!=0.9" if "<" in line else f"{line}!=0.9")
        done = hooked.run()
        assert done.code == 1
        reason = f"{path} was changed since the lock was made"
        assert [one for one in told(done) if one.startswith("error: ")] == [
            f"error: {lock}:{hooked.line(f'mlenv input: {path} ', lock)}: {reason}" for lock in both
        ]
        hooked.repository.git("checkout", "-q", "HEAD", "--", path)
    hooked.edit("apps/x/requirements.txt", "demo-app==1.0", "demo-app==1.1")
    assert {one.split(":")[1] for one in told(hooked.run()) if one.startswith("error: ")} == {
        " apps/x/requirements.txt"
    }
    hooked.repository.git("checkout", "-q", "HEAD", "--", "apps/x/requirements.txt")

    # The other hook makes all of them where a member's file is committed.
    hooked.write(CONFIG, hooks.config("id: mlenv-lock"))
    hooked.repository.commit("the other hook")
    hooked.edit("apps/y/requirements.in", "demo-lib", "demo-lib<1.0.5")
    hooked.repository.git("add", "-A")
    online = {"UV_DEFAULT_INDEX": hooked.world.index.url("pypi")}
    assert hooks.pre_commit("run", cwd=hooked.project, env=online).code == 1
    assert {line[3:] for line in hooked.repository.changed if line[1] == "M"} == {*both}
    hooked.repository.git("add", "-A")
    assert hooks.pre_commit("run", cwd=hooked.project, env=online).code == 0
