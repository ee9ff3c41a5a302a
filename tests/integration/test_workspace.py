"""A workspace as its users work on it: several applications, one resolution, an environment for each."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlenv import lockfile
from support.git import Repository
from support.index import LoopbackIndex
from support.interpreter import Finished, ProjectFactory, RunProgram
from support.wheels import Package
from support.world import LOCAL_BACKEND, World, make_world, site_of

PUBLISHED = (
    Package("kit", "1.0", extras={"fast": ["fast-lib"]}),
    Package("kit", "2.0", extras={"fast": ["fast-lib"]}),
    Package("fast-lib", "1.0"),
    Package("plain-lib", "1.0"),
    Package("plot-lib", "1.0"),
    Package("wants-kit", "1.0", requires=("kit[fast]",)),
    Package("dev-tool", "1.0", requires=("mpmath",)),
)
SETTINGS = """
python = "3.11"
[tool.mlenv.workspace]
members = ["apps/*", "libs/*", "my notebooks", "requirements-dev.in"]
"""


def package(name: str, *requires: str, extras: str = "") -> dict[str, str]:
    """The files of a package with a build of its own, which needs nothing."""
    module = name.replace("-", "_")
    listed = ", ".join(f'"{one}"' for one in requires)
    return {
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "0.1"\ndependencies = [{listed}]\n{extras}'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": LOCAL_BACKEND.replace("my_library", module)
        .replace("my-library", name)
        .replace("Requires-Dist: mpmath\\n", ""),
        f"src/{module}.py": f"HERE = {name!r}\n",
    }


@dataclass(frozen=True, kw_only=True)
class Apps:
    """A workspace of a trainer, a service, a library and notebooks, with a development list."""

    world: World

    @property
    def root(self) -> Path:
        return self.world.root

    def write(self, folder: str, files: dict[str, str]) -> None:
        for path, text in files.items():
            (self.root / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / folder / path).write_text(text)

    def run(self, *words: str, within: str = "") -> Finished:
        return self.world.program(*words, cwd=self.root / within, env=self.world.variables)

    def pins(self, path: str) -> dict[str, lockfile.Pin]:
        return {pin.name: pin for pin in lockfile.parse_pins((self.root / path).read_text())}

    def check(self, within: str = "") -> tuple[int, list[str]]:
        """The exit status of ``lock --check`` and what it found."""
        done = self.run("lock", "--check", within=within)
        return done.code, [line.removeprefix("error: ") for line in done.out.splitlines() if "error: " in line]

    @property
    def locks(self) -> dict[str, str]:
        found = (path for path in self.root.rglob("requirements*.txt") if ".mlenv" not in path.parts)
        return {path.relative_to(self.root).as_posix(): path.read_text() for path in sorted(found)}


@pytest.fixture
def apps(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> Apps:
    world = make_world(index, project, run_mlenv)
    made = Apps(world=world)
    for name in ("requirements.in", "requirements.txt"):
        (made.root / name).unlink()
    shutil.rmtree(made.root / ".mlenv", ignore_errors=True)
    world.publish(*PUBLISHED)
    world.configure(SETTINGS)
    made.write("apps/trainer", {"requirements.in": "demo-app\ncommon[plots]\nkit\n"})
    made.write("apps/service", package("rag-service", "kit[fast]", "common"))
    extras = 'optional-dependencies.plots = ["plot-lib"]\n'
    made.write("libs/common", package("common", "plain-lib", extras=extras))
    made.write("my notebooks", {"requirements.in": "kit<2  # the old one\n-e ../libs/common\n"})
    made.write("", {"requirements-dev.in": "dev-tool\n"})
    return made


def test_one_resolution_and_a_lock_for_each_member(apps: Apps) -> None:
    done = apps.run("lock", within="libs/common")
    assert done.code == 0, done
    locks = apps.locks
    members = {
        "apps/trainer/requirements.txt": {"demo-app", "kit", "plain-lib", "plot-lib"},
        "apps/service/requirements.txt": {"kit", "fast-lib", "plain-lib"},
        "libs/common/requirements.txt": {"plain-lib"},
        "my notebooks/requirements.txt": {"kit", "plain-lib"},
        "requirements-dev.txt": {"dev-tool"},
    }
    assert locks.keys() == {"requirements.txt", *members}
    whole = apps.pins("requirements.txt")
    ordinary = set(apps.pins("libs/common/requirements.txt")) - {"plain-lib"}  # what torch brings
    assert {"sympy", "mpmath"} <= ordinary
    assert set(whole) == ordinary.union(*members.values()) - {"dev-tool"}
    for path, names in members.items():
        pins = apps.pins(path)
        assert set(pins) == ordinary | names, path
        for name in pins.keys() & whole.keys():
            assert (pins[name].version, pins[name].hashes) == (whole[name].version, whole[name].hashes)
    assert whole["kit"].version == "1.0"
    assert (whole["kit"].extras, apps.pins("apps/trainer/requirements.txt")["kit"].extras) == (("fast",), ())
    assert "rag-service" not in "".join(line for text in locks.values() for line in text.splitlines() if "==" in line)
    again = apps.run("lock")
    assert (again.code, apps.locks) == (0, locks)
    for within in ("", "apps/trainer", "libs/common/src"):
        done = apps.run("lock", "--check", within=within)
        assert (done.code, done.out.count("is current")) == (0, len(locks)), within
    assert apps.run("lock", "--check", "--resolve").code == 0


def test_what_is_stale_is_named_wherever_it_is_asked(apps: Apps) -> None:
    assert apps.run("lock").code == 0
    locks = apps.locks

    def stale(within: str = "") -> dict[str, list[str]]:
        """lock → what is wrong with it."""
        code, lines = apps.check(within)
        assert code == 1
        found: dict[str, list[str]] = {}
        for line in lines:
            place, told = line.split(": ", 1)
            found.setdefault(place.rstrip("0123456789").rstrip(":"), []).append(told)
        return found

    # One member's requirement: its lock and that of all, and nobody else's.
    notebooks = apps.root / "my notebooks/requirements.in"
    before = notebooks.read_text()
    notebooks.write_text(before + "fast-lib\n")
    changed = "my notebooks/requirements.in was changed since the lock was made"
    assert {lock: told[0] for lock, told in stale("apps/trainer").items() if lock.endswith(".txt")} == {
        "requirements.txt": changed,
        "my notebooks/requirements.txt": changed,
    }
    assert apps.run("lock", "--check", "--member", "trainer").code == 0
    assert apps.run("lock", "--check", "--member", "my notebooks").code == 1
    notebooks.write_text(before.replace("# the old one", "# as it was"))
    assert apps.check()[0] == 0

    # A library that two members install: all that install it.
    library = apps.root / "libs/common/pyproject.toml"
    stated = library.read_text()
    library.write_text(stated.replace('"plain-lib"', '"plain-lib>=1"'))
    locked_with_it = {lock for lock in locks if lock != "requirements-dev.txt"}
    assert set(stale()) == locked_with_it
    library.write_text(stated)

    # A member's lock edited by hand, and one that is of another day than the rest.
    lock = apps.root / "apps/service/requirements.txt"
    lock.write_text(locks["apps/service/requirements.txt"].replace("kit[fast]==1.0", "kit[fast]==2.0"))
    assert set(stale()) == {"apps/service/requirements.txt"}
    lock.unlink()
    assert stale("my notebooks") == {"apps/service/requirements.txt": ["there is no lock"]}
    lock.write_text(locks["apps/service/requirements.txt"])
    assert apps.check()[0] == 0

    # Members come and go.
    apps.write("apps/new", {"requirements.in": "fast-lib\n"})
    assert stale()["apps/new/requirements.txt"] == ["there is no lock"]
    assert "apps/new/requirements.txt is a new member's" in stale()["requirements.txt"]
    shutil.rmtree(apps.root / "apps/new")
    shutil.rmtree(apps.root / "apps/trainer")
    assert "apps/trainer/requirements.txt is no member's any more" in stale()["requirements.txt"]
    restored = apps.run("lock")
    assert (restored.code, apps.check()) == (0, (0, [])), restored


def test_a_folder_that_was_a_project_of_its_own_is_judged_as_a_member(apps: Apps) -> None:
    """Its lock says that no byte changed; that it was not made with the others is what counts."""
    trainer = apps.root / "apps/trainer"
    apps.write("apps/trainer", {"requirements.in": "demo-app\n", "pyproject.toml": '[tool.mlenv]\npython = "3.11"\n'})
    shutil.copytree(apps.root / "constraints", trainer / "constraints")
    shutil.copy(apps.root / "uv.toml", trainer)
    settings = (apps.root / "pyproject.toml").read_text()
    (apps.root / "pyproject.toml").unlink()
    assert apps.run("lock", within="apps/trainer").code == 0
    assert apps.check("apps/trainer") == (0, [])
    (apps.root / "pyproject.toml").write_text(settings)
    assert apps.check("apps/trainer")[0] == 1
    assert apps.run("lock", within="apps/trainer").code == 0
    assert apps.check("apps/trainer")[0] == 0


def test_a_conflict_names_both_members_and_one_of_them_can_be_apart(apps: Apps) -> None:
    (apps.root / "apps/trainer/requirements.in").write_text("demo-app\n# newer\nkit>=2\n")
    refused = apps.run("lock")
    assert refused.code == 5
    assert "apps/trainer/requirements.in:3 requires kit>=2" in refused.err
    assert "my notebooks/requirements.in:1 requires kit<2" in refused.err
    files = "apps/trainer/pyproject.toml or my notebooks/pyproject.toml"
    assert f"isolated = true in [tool.mlenv] of {files}" in refused.err
    assert "lock -P" not in refused.err  # both are lines of files, and no pin is in the way
    assert apps.locks == {}

    apps.write("my notebooks", {"pyproject.toml": "[tool.mlenv]\nisolated = true\n"})
    assert apps.run("lock").code == 0
    versions = {path: apps.pins(path)["kit"].version for path in apps.locks if "kit" in apps.pins(path)}
    assert versions == {
        "requirements.txt": "2.0",
        "apps/trainer/requirements.txt": "2.0",
        "apps/service/requirements.txt": "2.0",
        "my notebooks/requirements.txt": "1.0",
    }
    assert apps.check() == (0, [])
    assert apps.check("my notebooks") == (0, [])
    (apps.root / "my notebooks/requirements.in").write_text("kit<1.5\n")
    code, lines = apps.check()
    assert code == 1
    assert all(line.startswith("my notebooks/requirements.") for line in lines)


def test_members_that_need_each_other(apps: Apps) -> None:
    """By name, by path, in a circle; each with an extra of its own."""
    shutil.rmtree(apps.root / "apps")
    shutil.rmtree(apps.root / "my notebooks")
    (apps.root / "requirements-dev.in").unlink()
    apps.world.configure(SETTINGS.replace(', "my notebooks", "requirements-dev.in"', ""))
    apps.write("apps/one", package("one", "two", "fast-lib"))
    apps.write("apps/two", package("two", "one", "wants-kit"))
    apps.write("apps/three", {"requirements.in": "-e ../../libs/common[plots]\nkit\n"})
    done = apps.run("lock")
    assert done.code == 0, done
    found = {name: set(apps.pins(f"apps/{name}/requirements.txt")) for name in ("one", "two", "three")}
    common = set(apps.pins("libs/common/requirements.txt")) - {"plain-lib"}
    assert found["one"] == found["two"] == common | {"fast-lib", "wants-kit", "kit"}
    assert found["three"] == common | {"plain-lib", "plot-lib", "kit"}
    assert apps.check()[0] == 0
    listed = apps.run("workspace", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["member", "common", "three", "one", "two"]


def test_sync_builds_a_members_environment_with_its_own_package_and_those_it_needs(apps: Apps) -> None:
    with (apps.root / "apps/service/pyproject.toml").open("a") as file:
        file.write("[tool.uv.sources]\ncommon = { workspace = true }\n")  # as it was in a workspace of uv's
    assert apps.run("lock").code == 0
    done = apps.run("sync", "--cpu", "--verify", "metadata", within="apps/service/src")
    assert done.code == 0, done
    site = site_of(apps.root / "apps/service/.venv")
    assert not (apps.root / ".venv").exists()
    names = {path.name.split("-")[0] for path in site.glob("*.dist-info")}
    assert {"rag_service", "common", "kit", "fast_lib", "torch", "sympy"} <= names
    assert not names & {"demo_app", "plot_lib", "dev_tool"}
    for folder, module in (("apps/service", "rag_service"), ("libs/common", "common")):
        assert (site / f"{module}.pth").read_text().strip() == str(apps.root / folder / "src")
    ran = apps.run("run", "--", "python", "-c", "import common, rag_service; print(common.HERE)", within="apps/service")
    assert (ran.code, ran.out) == (0, "common\n")

    again = apps.run("sync", "--cpu", "--verify", "metadata", "--member", "rag-service")
    assert "nothing to do" in again.out
    # A line of another member makes no environment of this one stale; one of its library does.
    (apps.root / "apps/trainer/requirements.in").write_text("demo-app\n")
    assert apps.run("lock").code == 0
    assert "nothing to do" in apps.run("sync", "--cpu", "--verify", "metadata", within="apps/service").out
    assert apps.run("sync", "--cpu", "--verify", "metadata", "--member", "my notebooks").code == 0
    site = site_of(apps.root / "my notebooks/.venv")
    assert (site / "common.pth").is_file()
    assert not (site / "rag_service.pth").exists()


def test_what_a_member_adds_and_removes_is_locked_for_all(apps: Apps) -> None:
    """The member is a package: what it requires is read where it is a file, and where others need the package."""
    assert apps.run("lock").code == 0
    before = (apps.root / "libs/common/pyproject.toml").read_text(), apps.locks
    done = apps.run("add", "dev-tool", within="libs/common")
    assert done.code == 0, done
    assert apps.check() == (0, [])
    assert "dev-tool" in apps.pins("libs/common/requirements.txt").keys() & apps.pins("requirements.txt").keys()
    assert "dev-tool" in apps.pins("my notebooks/requirements.txt")
    assert apps.run("remove", "dev-tool", "--member", "common").code == 0
    assert ((apps.root / "libs/common/pyproject.toml").read_text(), apps.locks) == before
    assert apps.run("add", "kit<1", "--member", "common").code == 5
    assert ((apps.root / "libs/common/pyproject.toml").read_text(), apps.locks) == before


def test_a_development_list_is_installed_beside_a_lock_that_agrees_with_it(apps: Apps) -> None:
    apps.write("apps/old", {"requirements.in": "kit<2\n", "pyproject.toml": "[tool.mlenv]\nisolated = true\n"})
    assert apps.run("lock").code == 0
    assert "dev-tool" not in apps.pins("requirements.txt")
    wanted = ("--cpu", "--verify", "metadata", "--group", "dev")
    done = apps.run("sync", *wanted)
    assert done.code == 0, done
    site = site_of((apps.root / ".venv").resolve())
    assert (site / "dev_tool").is_dir()
    assert (site / "fast_lib").is_dir()
    assert apps.run("sync", *wanted, "--check").code == 0
    assert apps.run("sync", "--cpu", "--check").code == 1
    for refused in (("--member", "dev", "--cpu"), ("--member", "old", *wanted), ("--cpu", "--group", "nope")):
        assert apps.run("sync", *refused).code == 2


def test_a_wheel_that_one_member_names_by_its_address_is_everybodys(apps: Apps) -> None:
    """The service asks for an extra, so that it can't be told from the annotations what the notebooks need."""
    by_url = Package("plain-lib", "2.0", requires=("dev-tool",))
    apps.world.index.add("elsewhere", by_url)
    url = f"{apps.world.index.file_url('elsewhere', by_url)}#sha256={by_url.sha256}"
    apps.write("apps/trainer", {"requirements.in": f"plain-lib @ {url}\nwants-kit\n"})
    done = apps.run("lock")
    assert done.code == 0, done
    for lock in ("libs/common/requirements.txt", "my notebooks/requirements.txt", "requirements.txt"):
        pins = apps.pins(lock)
        assert pins["plain-lib"].url, lock
        assert "dev-tool" in pins, lock


def test_a_member_is_for_the_workspaces_python(apps: Apps) -> None:
    apps.world.configure(SETTINGS.replace('python = "3.11"', ""))
    for python, code in (("3.12", 3), ("3.11.7", 0)):
        apps.write("apps/trainer", {"pyproject.toml": f'[tool.mlenv]\npython = "{python}"\n'})
        done = apps.run("lock")
        assert (done.code, "isolated = true" in done.err) == (code, code == 3), done
    assert apps.check() == (0, [])


@pytest.mark.parametrize("seed", range(3))
def test_any_members_lock_is_closed_and_shares_its_pins(apps: Apps, run_uv: RunProgram, seed: int) -> None:
    """Packages that require each other with extras at random: what each member's lock holds can be installed alone."""
    shutil.rmtree(apps.root / "apps")
    (apps.root / "requirements-dev.in").unlink()
    apps.world.configure('python = "3.11"\n[tool.mlenv.workspace]\nmembers = ["apps/*"]\n')
    pick = random.Random(seed)
    names = [f"pack-{number}" for number in range(9)]
    asked = [*names, *(f"{name}[{extra}]" for name in names for extra in ("x", "y", "x,y"))]
    below = ["torch", "mpmath", *asked]
    for name in names:
        extras = {extra: pick.sample(below, pick.randint(0, 1)) for extra in ("x", "y")}
        requires = pick.sample(below, pick.randint(0, 1))
        apps.world.publish(Package(name, "1.0", requires=requires, extras=extras), Package(name, "0.9"))
    for member in ("one", "two", "three"):
        lines = pick.sample(asked, pick.randint(1, 3))
        apps.write(f"apps/{member}", {"requirements.in": "".join(f"{line}\n" for line in lines)})
    assert apps.run("lock").code == 0
    whole = apps.pins("requirements.txt")
    foundation = apps.world.foundations["cpu"]
    index = ["--index-url", apps.world.variables["UV_DEFAULT_INDEX"] or ""]
    for member in ("one", "two", "three"):
        lock = apps.root / f"apps/{member}/requirements.txt"
        shared = lockfile.parse_pins(lock.read_text())
        assert all((pin.version, pin.hashes) == (whole[pin.name].version, whole[pin.name].hashes) for pin in shared)
        # As if there were no others: not a package more or less.
        alone = run_uv(
            *("pip", "compile", "-q", "--no-header", "--no-annotate", "--python-version", "3.11", *index),
            *("--index", apps.world.index.url("pytorch-cpu"), "--index-strategy", "unsafe-best-match"),
            *("--no-strip-extras", f"apps/{member}/requirements.in", "constraints/cpu.txt"),
            cwd=apps.root,
        )
        assert alone.code == 0, alone
        family = {package.normalized for package in foundation.family}
        expected = {pin.requirement for pin in lockfile.parse_pins(alone.out) if pin.name not in family}
        assert {pin.requirement for pin in shared} == expected
        environment = apps.root / f"env-{member}"
        install: list[str | Path] = ["pip", "install", "-q", "--no-deps", "--python", environment]
        torch = apps.world.index.url("pytorch-cpu")
        steps: list[list[str | Path]] = [
            ["venv", "-q", environment],
            [*install, "-r", "constraints/cpu.txt", "--index-url", torch],
            [*install, "--require-hashes", "-r", lock, *index],
            ["pip", "check", "--python", environment],
        ]
        for words in steps:
            done = run_uv(*words, cwd=apps.root)
            assert done.code == 0, done


def test_doctor_says_where_a_members_environment_would_be_committed(apps: Apps) -> None:
    Repository.make(apps.root)
    (apps.root / ".gitignore").write_text("/.venv\n")
    told = ".gitignore does not have apps/service/.venv and 3 more"
    assert told in apps.run("doctor", "--offline", within="apps/trainer").out
    assert apps.run("init").code == 0
    assert ".gitignore does not have" not in apps.run("doctor", "--offline").out


def test_why_at_the_root_says_which_members_have_a_package_and_by_which_of_their_lines(apps: Apps) -> None:
    isolated = {"requirements.in": "wants-kit\n", "pyproject.toml": "[tool.mlenv]\nisolated = true\n"}
    apps.write("apps/legacy", isolated)
    assert apps.run("lock").code == 0

    def why(name: str) -> list[str]:
        return apps.run("why", "--backend", "cpu", name).out.splitlines()[1:]

    assert why("fast-lib") == ["  in the lock of service", "  apps/service/pyproject.toml:4 kit → fast-lib"]
    assert why("plot-lib") == ["  in the lock of trainer", "  apps/trainer/requirements.in:2 common → plot-lib"]
    everybody = "apps/service/pyproject.toml:4, apps/trainer/requirements.in:3, my notebooks/requirements.in:1"
    assert why("kit") == ["  in the lock of service, trainer, my notebooks", f"  {everybody} kit"]  # each line once

    for name, member, told in (("wants-kit", "legacy", "is isolated"), ("dev-tool", "dev", "is a development list")):
        done = apps.run("why", name)
        assert (done.code, f"{member}, which {told}, has it" in done.err) == (1, True), done
        assert f"`mlenv why --member {member} {name}`" in done.err
        assert apps.run("why", "--member", member, name).code == 0
    for command in (["tree"], ["why", "kit"], ["outdated"]):
        assert "without legacy (isolated): `--member legacy` looks there" in apps.run(*command).err
    assert "isolated" not in apps.run("tree", "--member", "legacy").err


def test_all_environments_are_built_and_checked_each_with_what_is_wrong_in_it(apps: Apps) -> None:
    apps.world.configure('[tool.mlenv.workspace]\nmembers = ["apps/trainer", "my notebooks", "libs/common"]\n')
    assert apps.run("lock").code == 0
    done = apps.run("sync", "--all", "--cpu", "--verify", "metadata")
    assert done.code == 0, done
    cut = [line for line in done.err.splitlines() if re.search("Prepared|Installed|packages in|^[^:]*: in ", line)]
    assert cut
    assert all(re.search(r": (Prepared|Installed) \d+ packages? in \d", line) for line in cut), cut

    shutil.rmtree(site_of(apps.root / "my notebooks/.venv") / "kit-1.0.dist-info")
    done = apps.run("sync", "--all", "--check")
    lines = done.out.splitlines()
    assert (done.code, lines[:3]) == (1, ["trainer: checked", "common: checked", "my notebooks: differs"]), done
    assert lines[3].startswith("  error: my notebooks/.venv: kit 1.0 was removed")
    assert lines[-1] == "  hint: run `mlenv --member 'my notebooks' sync --backend cpu`"
