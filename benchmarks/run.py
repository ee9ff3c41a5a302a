"""mlenv against raw uv, on this repository, in one run: medians and ratios.

Usage: python benchmarks/run.py [--runs N]
The network is used, and the CUDA stack must be in uv's cache: run `mlenv sync --cuda13` first.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uv

ROOT = Path(__file__).parent.parent
UV = uv.find_uv_bin()
MLENV = [sys.executable, "-m", "mlenv"]
RESOLVE = [UV, "pip", "compile", "-q", "--generate-hashes", "--no-header", "--python-version", "3.11"]


def main() -> None:
    """Print one line for each pair: what was measured, both medians, their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as name:
        folder = Path(name)
        project = folder / "project"
        ignore = shutil.ignore_patterns(".git", ".mlenv", ".venv", ".*_cache")
        shutil.copytree(ROOT, project, ignore=ignore, symlinks=True)
        for title, ours, theirs in _pairs(project, folder):
            _compare(title, ours, theirs, runs=runs)


def _pairs(project: Path, folder: Path) -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
    everything = folder / "everything.in"
    everything.write_text((project / "requirements.in").read_text() + (project / "constraints/cu130.txt").read_text())
    compiled = folder / "everything.txt"
    resolve = [*RESOLVE, str(everything), "-o", str(compiled)]
    _run(resolve, project)
    _run([*MLENV, "sync", "--cuda13", "--verify", "metadata"], project)

    def rebuild_with_uv() -> None:
        shutil.rmtree(folder / "raw", ignore_errors=True)
        _run([UV, "venv", "-q", "--no-project", str(folder / "raw")], project)
        _run([UV, "pip", "sync", "-q", "--python", str(folder / "raw"), str(compiled)], project)

    def ours(*words: str) -> Callable[[], None]:
        return lambda: _run([*MLENV, *words], project)

    def theirs(*words: str) -> Callable[[], None]:
        return lambda: _run([*words], project)

    build = ("sync", "--cuda13", "--rebuild", "--verify", "metadata")
    again = theirs(UV, "pip", "sync", "-q", "--python", str(folder / "raw"), str(compiled))
    return [
        ("lock for four overlays, warm / one uv pip compile", ours("lock"), theirs(*resolve)),
        ("lock --check / uv pip compile --offline", ours("lock", "--check"), theirs(*resolve, "--offline")),
        ("sync --rebuild / uv venv + uv pip sync", ours(*build), rebuild_with_uv),
        ("sync, nothing to do / uv pip sync, nothing to do", ours("sync", "--cuda13"), again),
        ("mlenv --version / python -c pass", ours("--version"), theirs(sys.executable, "-c", "pass")),
    ]


def _compare(title: str, ours: Callable[[], None], theirs: Callable[[], None], *, runs: int) -> None:
    ours()
    theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(runs)]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    sys.stdout.write(f"{title:<62} {mine:7.3f} s  {other:7.3f} s  ratio {ratio:5.2f}\n")


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _run(argv: list[str], cwd: Path) -> None:
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True)


if __name__ == "__main__":
    main()
