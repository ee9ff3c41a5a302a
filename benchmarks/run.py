"""mlenv against raw uv and pip-compile, both sides in the same run: medians and ratios.

Usage: python benchmarks/run.py [--runs N] [--only WORD]    for example `--only workspace`
The network is used, and the CUDA stack must be in uv's cache: run `mlenv sync --cuda13` first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uv

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.index import LoopbackIndex  # noqa: E402 - the tests' index serves a workload here as well
from support.wheels import Package  # noqa: E402

UV = uv.find_uv_bin()
MLENV = [sys.executable, "-m", "mlenv"]
RESOLVE = [UV, "pip", "compile", "-q", "--generate-hashes", "--no-header", "--python-version", "3.11"]
NEED_TORCH = ("accelerate", "bitsandbytes", "peft", "trl")
DIRECT = 400
MEMBERS = 50
# The last pip-tools that downloads nothing for a lock that is there (FACTS, pip-tools 5), and what it runs with.
PIP_TOOLS = ("pip-tools==7.6.0", "click<8.3", "pip<26")

Call = Callable[[], None]
Maker = Callable[[Path, Path], Iterator["Pair | Sizes"]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is compared: ours, theirs (None where the time alone counts), at most how often (minutes of pip)."""

    title: str
    ours: Call
    theirs: Call | None = None
    most: int = 1000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Two figures that no clock measures, in bytes."""

    title: str
    ours: int
    theirs: int


def main() -> None:
    """Print one line for each pair: what was measured, both medians, their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="the pairs with this word in their title")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as name, LoopbackIndex() as index:
        folder = Path(name)
        project = folder / "project"
        ignore = shutil.ignore_patterns(".git", ".mlenv", ".venv", ".*_cache")
        shutil.copytree(ROOT, project, ignore=ignore, symlinks=True)
        makers: dict[str, Maker] = {
            "lock": _locking,
            "check": _checking,
            "many": lambda *_: _many(folder, index),
            "workspace": _workspace,
            "build": _building,
        }
        for kind, make in makers.items():
            if asked.only in makers and asked.only != kind:
                continue
            for found in make(project, folder):
                if asked.only == kind or asked.only in found.title:
                    _show_sizes(found) if isinstance(found, Sizes) else _compare(found, runs=asked.runs)


def _locking(project: Path, folder: Path) -> Iterator[Pair]:
    resolve = _resolve_everything(project, folder)
    _run(resolve, project)
    _run([*MLENV, "lock"], project)
    yield Pair(
        title="lock, four overlays, warm / one uv pip compile",
        ours=_mlenv(project, "lock"),
        theirs=_call(resolve, project),
    )


def _checking(project: Path, folder: Path) -> Iterator[Pair]:
    offline = [*_resolve_everything(project, folder), "--offline"]
    check = _mlenv(project, "lock", "--check")
    yield Pair(title="lock --check / uv pip compile --offline", ours=check, theirs=_call(offline, project))
    yield Pair(title="lock --check / pip-compile, warm, no torch", ours=check, theirs=_pip_compile(project, folder))
    edited = folder / "edited"
    shutil.copytree(project, edited, symlinks=True)
    with (edited / "requirements.in").open("a") as file:
        file.write("# a comment\n")
    yield Pair(
        title="lock --check, a comment edited / uv pip compile --offline",
        ours=_mlenv(edited, "lock", "--check"),
        theirs=_call(offline, project),
    )
    yield Pair(
        title="mlenv --version / python -c pass",
        ours=_mlenv(project, "--version"),
        theirs=_call([sys.executable, "-c", "pass"], project),
    )


def _many(folder: Path, index: LoopbackIndex) -> Iterator[Pair]:
    """A project of 400 direct requirements, each with a dependency."""
    project = folder / "many"
    (project / "constraints").mkdir(parents=True)
    (project / "constraints/cpu.txt").write_text("# no foundation\n")
    index.add("many", *(Package(f"direct-{n}", "1.0", requires=(f"below-{n % 50}>=1",)) for n in range(DIRECT)))
    index.add("many", *(Package(f"below-{n}", "1.0") for n in range(50)))
    (project / "requirements.in").write_text("".join(f"direct-{n}>=1\n" for n in range(DIRECT)))
    env = {**os.environ, "UV_DEFAULT_INDEX": index.url("many"), "UV_CACHE_DIR": str(folder / "cache")}
    subprocess.run([*MLENV, "lock"], cwd=project, check=True, capture_output=True, env=env)
    yield Pair(title=f"lock --check, {DIRECT} direct requirements", ours=_mlenv(project, "lock", "--check"))
    with (project / "requirements.in").open("a") as file:
        file.write("# a comment\n")
    yield Pair(
        title=f"lock --check, {DIRECT} direct requirements, a comment edited", ours=_mlenv(project, "lock", "--check")
    )


def _workspace(project: Path, folder: Path) -> Iterator[Pair | Sizes]:
    """50 members with 400 distinct real requirements, each of them in two members; and three real environments."""
    lines = (ROOT / "benchmarks/workspace.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    root = _workspace_of(project, folder / "workspace", names)
    everything = folder / "union.in"
    everything.write_text("\n".join([*names, (project / "constraints/cu130.txt").read_text()]))
    resolve = [*RESOLVE, str(everything), "-o", str(folder / "union.txt")]
    _run(resolve, root)
    _run([*MLENV, "lock"], root)
    about = f"workspace, {MEMBERS} members, {len(names)} requirements"
    lock, check = _mlenv(root, "lock"), _mlenv(root, "lock", "--check")
    yield Pair(title=f"{about}: lock --check", ours=check)
    yield Pair(title=f"{about}: lock / uv pip compile", ours=lock, theirs=_call(resolve, root))
    example = folder / "example"
    shutil.copytree(ROOT / "examples/workspace", example, ignore=shutil.ignore_patterns(".mlenv", ".venv"))
    members = ["apps/trainer", "apps/retrieval", "notebooks"]
    for member in members:
        _run([*MLENV, "sync", "--cuda13", "--verify", "metadata"], example / member)
    one, all_of_them = _on_disk([example / members[0]]), _on_disk([example / member for member in members])
    yield Sizes(title="workspace, three environments on the disk / one", ours=all_of_them, theirs=one)


def _workspace_of(project: Path, root: Path, names: list[str]) -> Path:
    """Members with sixteen requirements each, the overlays and indexes of this repository."""
    mixed = random.Random(1).sample(names, len(names))
    each = len(mixed) // MEMBERS
    for number in range(MEMBERS):
        member = root / f"apps/member-{number}"
        member.mkdir(parents=True)
        first = number * each
        own = (mixed[(first + more) % len(mixed)] for more in range(2 * each))
        (member / "requirements.in").write_text("".join(f"{name}\n" for name in sorted(own)))
    settings = '[tool.mlenv]\npython = "3.11"\n\n[tool.mlenv.workspace]\nmembers = ["apps/*"]\n'
    (root / "pyproject.toml").write_text(settings)
    shutil.copytree(project / "constraints", root / "constraints", ignore=shutil.ignore_patterns("*.toml"))
    shutil.copy(project / "uv.toml", root)
    return root


def _on_disk(folders: list[Path]) -> int:
    """The bytes of everything in folders, what is linked several times counted once."""
    found = (path.lstat() for folder in folders for path in folder.rglob("*"))
    return sum({status.st_ino: status.st_blocks * 512 for status in found}.values())


def _show_sizes(sizes: Sizes) -> None:
    told = f"{sizes.ours / 1e9:8.2f} GB{sizes.theirs / 1e9:8.2f} GB  ratio {sizes.ours / sizes.theirs:7.3f}"
    sys.stdout.write(f"{sizes.title:<64}{told}\n")
    sys.stdout.flush()


def _building(project: Path, folder: Path) -> Iterator[Pair]:
    compiled = folder / "everything.txt"
    _run(_resolve_everything(project, folder), project)
    _run([*MLENV, "sync", "--cuda13", "--verify", "metadata"], project)

    def rebuild_with_uv() -> None:
        shutil.rmtree(folder / "raw", ignore_errors=True)
        _run([UV, "venv", "-q", "--no-project", str(folder / "raw")], project)
        _run([UV, "pip", "sync", "-q", "--python", str(folder / "raw"), str(compiled)], project)

    build = _mlenv(project, "sync", "--cuda13", "--rebuild", "--verify", "metadata")
    yield Pair(title="sync --rebuild / uv venv + uv pip sync", ours=build, theirs=rebuild_with_uv)
    again = _call([UV, "pip", "sync", "-q", "--python", str(folder / "raw"), str(compiled)], project)
    yield Pair(
        title="sync, nothing to do / uv pip sync, nothing to do", ours=_mlenv(project, "sync", "--cuda13"), theirs=again
    )
    yield Pair(title="check --deep, every file hashed", ours=_mlenv(project, "check", "--deep"))
    yield Pair(title="sync --rebuild / python -m venv + pip install", ours=build, theirs=_pip(folder, compiled), most=1)
    for backend in ("cu130", "cu132"):
        _run([*MLENV, "sync", "--backend", backend, "--verify", "metadata"], project)
    turns = itertools.cycle(("cu130", "cu132"))
    yield Pair(
        title="sync, back to a backend built before", ours=lambda: _mlenv(project, "sync", "--backend", next(turns))()
    )


def _pip(folder: Path, compiled: Path) -> Call:
    """How it was done before: the same pins, hashed, from pip's own warm cache."""
    target = folder / "pip"

    def build() -> None:
        shutil.rmtree(target, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(target)], folder)
        _run([str(target / "bin" / "pip"), "install", "-q", "--require-hashes", "-r", str(compiled)], folder)

    return build


def _resolve_everything(project: Path, folder: Path) -> list[str]:
    everything = folder / "everything.in"
    everything.write_text((project / "requirements.in").read_text() + (project / "constraints/cu130.txt").read_text())
    return [*RESOLVE, str(everything), "-o", str(folder / "everything.txt")]


def _pip_compile(project: Path, folder: Path) -> Call:
    """pip-compile at its best: nothing to download, the lock is there, everything in its cache."""
    tools, source, lock = folder / "pip-tools", folder / "plain.in", folder / "plain.txt"
    _run([UV, "venv", "-q", "--no-project", "--python", sys.executable, str(tools)], project)
    _run([UV, "pip", "install", "-q", "--python", str(tools), *PIP_TOOLS], project)
    lines = (project / "requirements.in").read_text().splitlines()
    source.write_text("".join(f"{line}\n" for line in lines if not line.startswith(NEED_TORCH)))
    command = [
        str(tools / "bin" / "pip-compile"),
        "-q",
        "--generate-hashes",
        "--strip-extras",
        str(source),
        "-o",
        str(lock),
    ]
    _run(command, project)
    return _call(command, project)


def _mlenv(project: Path, *words: str) -> Call:
    return _call([*MLENV, *words], project)


def _call(argv: list[str], cwd: Path) -> Call:
    return lambda: _run(argv, cwd)


def _compare(pair: Pair, *, runs: int) -> None:
    calls = [call for call in (pair.ours, pair.theirs) if call is not None]
    for call in calls:
        call()
    rounds = [[_seconds(call) for call in calls] for _ in range(min(runs, pair.most))]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    told = "".join(f"{median:9.3f} s" for median in medians)
    ratio = f"  ratio {statistics.median(one / other for one, other in rounds):7.3f}" if len(calls) == 2 else ""
    sys.stdout.write(f"{pair.title:<64}{told}{ratio}\n")
    sys.stdout.flush()


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _run(argv: list[str], cwd: Path) -> None:
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True)


if __name__ == "__main__":
    main()
