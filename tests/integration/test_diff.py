"""``mlenv diff``: locks at revisions of a real git repository, and in files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mlenv import lockfile
from mlenv.lockfile import Header, Pin
from support.git import Repository
from support.interpreter import ProjectFactory, RunProgram

A, B, C = (f"sha256:{sign * 64}" for sign in "abc")


def write_lock(path: Path, *pins: Pin, torch: str, overlay: str) -> None:
    header = Header(
        python="3.11",
        platforms=("linux-x86_64",),
        inputs={"requirements.in": lockfile.digest("x")},
        overlays={"constraints/cu130.txt": lockfile.digest(overlay)},
        settings=lockfile.digest(""),
        proven={"cu130": f"torch=={torch}"},
    )
    path.write_text(lockfile.render(header=header, pins=pins, excluded=("torch",)))


def test_locks_at_revisions_and_in_files(project: ProjectFactory, run_mlenv: RunProgram) -> None:
    root = project({"requirements.in": "new\n", "sub/keep.txt": ""})
    lock = root / "requirements.txt"
    same = Pin(name="same", version="1", hashes=(A,), via=("old",))
    old = (Pin(name="up", version="1.9", hashes=(A,)), Pin(name="down", version="2", hashes=(A,)))
    gone = Pin(name="gone", version="1", hashes=(A,))
    write_lock(lock, same, *old, gone, Pin(name="bytes", version="1", hashes=(A, B)), torch="2.13.0", overlay="a")
    repository = Repository.make(root)
    new = (Pin(name="up", version="1.10", hashes=(B,)), Pin(name="down", version="1", hashes=(B,)))
    here = Pin(name="same", version="1", hashes=(A,), via=("new",))
    fresh = Pin(name="new", version="1", hashes=(A,))
    write_lock(lock, here, *new, fresh, Pin(name="bytes", version="1", hashes=(A, C)), torch="2.14.1", overlay="b")

    done = run_mlenv("diff", "HEAD", cwd=root)
    digests = [lockfile.digest(text)[:15] for text in "ab"]
    first, *rows = done.out.splitlines()
    told = "error: HEAD and requirements.txt differ in 7 things: 1 added, 1 removed, 1 upgraded, 1 downgraded"
    assert (done.code, first) == (1, told)
    assert [re.split("  +", row) for row in rows] == [
        ["", "HEAD", "requirements.txt"],
        ["cu130", "torch==2.13.0", "torch==2.14.1"],
        ["constraints/cu130.txt", f"{digests[0]}…", f"{digests[1]}…"],
        ["bytes", "1 (2 hashes, sha256:bbbbbbbb…)", "1 (2 hashes, sha256:cccccccc…)"],
        ["down", "2", "1"],
        ["gone", "1", "-"],
        ["new", "-", "1"],
        ["up", "1.9", "1.10"],
    ]
    repository.commit("moved")
    document = json.loads(run_mlenv("diff", "HEAD~1", "HEAD", "--json", cwd=root / "sub").out)
    changes = {row["name"]: row["change"] for row in document["differences"]}
    assert changes == {
        "cu130": "proven",
        "constraints/cu130.txt": "overlay",
        "bytes": "hashes",
        "down": "downgraded",
        "gone": "removed",
        "new": "added",
        "up": "upgraded",
    }
    alike = run_mlenv("diff", "HEAD", cwd=root)
    assert (alike.code, alike.out) == (0, "HEAD and requirements.txt are alike: 5 packages\n")
    (root / "theirs.txt").write_text("same==1 \\\n    --hash=" + A + "\nup==1.10 \\\n    --hash=" + B + "\n")
    other = run_mlenv("diff", "theirs.txt", "HEAD:requirements.txt", cwd=root)
    assert "3 added" in other.out
    assert "torch" not in other.out


def test_what_is_no_lock(project: ProjectFactory, run_mlenv: RunProgram) -> None:
    root = project({"requirements.in": "x\n", "notes.txt": "hello\n", "requirements.txt": "x==1\n"})
    for words, told in (
        (("nowhere",), "'nowhere' is neither a lock file nor a revision"),
        (("notes.txt",), "notes.txt holds no pins"),
        (("--", "--output=x"), "is neither a lock file nor a revision"),
    ):
        done = run_mlenv("diff", *words, cwd=root)
        assert (done.code, told in done.err) == (2, True), done
    Repository.make(root).git("rm", "-q", "--cached", "requirements.txt")
    Repository(root).git("commit", "-q", "-m", "without")
    gone = run_mlenv("diff", "HEAD", cwd=root)
    assert (gone.code, "HEAD has no requirements.txt" in gone.err) == (2, True), gone
