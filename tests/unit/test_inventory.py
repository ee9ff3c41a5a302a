from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlenv.system import inventory

SITE = "lib/python3.11/site-packages"


def install(
    root: Path, name: str, *, version: str = "1.0", record: str | None = None, files: tuple[str, ...] = ()
) -> Path:
    site = root / SITE
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: b>1\n\nName: no\n"
    )
    for path in files:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text("x")
    rows = [f"{path},sha256=abc,1" for path in files] + [
        f"{info.name}/{n},," for n in ("INSTALLER", "METADATA", "RECORD")
    ]
    (info / "INSTALLER").write_text("uv")
    (info / "RECORD").write_text("\n".join(rows) + "\n" if record is None else record)
    return info


def environment(root: Path) -> Path:
    install(root, "My_Package", files=("my_package/__init__.py",))
    (root / "pyvenv.cfg").write_text("home = /usr\n")
    return root


def test_packages_are_read_with_their_files(tmp_path: Path) -> None:
    found = inventory.read(environment(tmp_path))
    (package,) = found.packages
    assert (package.name, package.version, package.fault, package.local) == ("my-package", "1.0", None, False)
    assert package.requires == ("b>1",)
    assert package.rows[0] == inventory.Recorded(path=f"{SITE}/my_package/__init__.py", hash="sha256=abc", size=1)
    assert found.files[f"{SITE}/my_package/__init__.py"] == 1
    assert found.versions == {"my-package": "1.0"}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("", "its RECORD is missing or empty"),
        ("a.py,,\na-1.0.dist-info/INSTALLER,,", "its RECORD is torn"),
        ("a.py,sha256=x\na-1.0.dist-info/INSTALLER,,\n", "its RECORD is torn"),
        ("a.py,,\n", "its installation was not finished"),
        ("a.py,,\na-1.0.dist-info/INSTALLER,,\n", None),
        ('"a,b.py",,\na-1.0.dist-info/INSTALLER,,\n', None),
    ],
)
def test_a_torn_record_is_told_from_a_finished_one(tmp_path: Path, record: str, fault: str | None) -> None:
    install(tmp_path, "a", record=record)
    assert inventory.read(tmp_path).packages[0].fault == fault


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ("a/b.py", f"{SITE}/a/b.py"),
        ("../../../bin/tool", "bin/tool"),
        ("../../Scripts/tool.exe", "lib/Scripts/tool.exe"),
        ("..\\..\\..\\Scripts\\tool.exe", "Scripts/tool.exe"),
        ("a\\b.py", f"{SITE}/a/b.py"),
        ("a/../../../../bin/activate", "bin/activate"),
        ("/etc/passwd", "/etc/passwd"),
        ("C:\\Windows\\x.dll", "C:/Windows/x.dll"),
        ("../../../../outside", "../outside"),
        ("a..b/c.py", f"{SITE}/a..b/c.py"),
    ],
)
def test_a_recorded_path_is_relative_to_the_environment(tmp_path: Path, row: str, path: str) -> None:
    install(tmp_path, "a", record=f"{row},,\na-1.0.dist-info/INSTALLER,,\n")
    assert inventory.read(tmp_path).packages[0].rows[0].path == path


def test_a_local_project_is_told_by_its_direct_url(tmp_path: Path) -> None:
    info = install(tmp_path, "mine")
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    assert inventory.read(tmp_path).packages[0].local


def test_a_dangling_link_has_no_size_and_linked_folders_are_not_entered(tmp_path: Path) -> None:
    environment(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "lib64").symlink_to("lib")
    files = inventory.read(tmp_path).files
    assert files["dangling"] == -1
    assert not any(path.startswith("lib64/") for path in files)


@pytest.mark.parametrize("missing", ["lib", "lib/python3.11/site-packages"])
def test_an_environment_without_site_packages(tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileNotFoundError):
        inventory.snapshot(tmp_path)


def test_windows_keeps_its_packages_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Lib" / "site-packages").mkdir(parents=True)
    monkeypatch.setattr("mlenv.system.inventory.os.name", "nt")
    assert inventory.site_packages(tmp_path) == tmp_path / "Lib" / "site-packages"


def test_an_untouched_environment_has_not_drifted(tmp_path: Path) -> None:
    before = inventory.snapshot(environment(tmp_path))
    (tmp_path / SITE / "__pycache__").mkdir()
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == ()


def test_what_drifted_is_said_in_one_sentence_each(tmp_path: Path) -> None:
    for name in ("gone", "moved", "touched"):
        install(tmp_path, name, files=(f"{name}/__init__.py",))
    (tmp_path / "pyvenv.cfg").write_text("home = /usr\n")
    before = inventory.snapshot(tmp_path)
    site = tmp_path / SITE
    for path in (site / "gone-1.0.dist-info").iterdir():
        path.unlink()
    (site / "gone-1.0.dist-info").rmdir()
    (site / "moved-1.0.dist-info").rename(site / "moved-2.0.dist-info")
    (site / "touched-1.0.dist-info" / "RECORD").write_text("")
    install(tmp_path, "new")
    (tmp_path / "pyvenv.cfg").unlink()
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == (
        "pyvenv.cfg was deleted",
        "gone 1.0 was removed",
        "moved 1.0 was replaced by 2.0",
        "new 1.0 was installed",
        "touched 1.0 was installed again or damaged",
    )


def test_a_folder_that_was_deleted_or_appeared_is_named(tmp_path: Path) -> None:
    before = inventory.snapshot(environment(tmp_path))
    site = tmp_path / SITE
    (site / "sitecustomize.py").write_text("")
    (appeared,) = inventory.drifted(before, inventory.snapshot(tmp_path))
    assert "sitecustomize.py appeared" in appeared
    (site / "my_package" / "__init__.py").unlink()
    (site / "my_package").rmdir()
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == ("site-packages/my_package was deleted",)


@pytest.mark.parametrize(("later", "found"), [(0.0, ()), (1000.0, (f"{SITE}/a/__init__.py",))])
def test_what_was_written_long_after_its_package_was_unpacked_is_hashed(
    tmp_path: Path, later: float, found: tuple[str, ...]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    info = install(tmp_path, "a", files=("a/__init__.py",))
    for path in (info / "METADATA", tmp_path / SITE / "a" / "__init__.py"):
        (tmp_path / "elsewhere" / path.name).hardlink_to(path)  # as uv links from its cache
    os.utime(info / "METADATA", (0, 1e9))
    os.utime(tmp_path / SITE / "a" / "__init__.py", (0, 1e9 + later))
    assert inventory.edited_in_cache(inventory.read(tmp_path)) == found


def test_a_pyvenv_cfg_that_is_a_link_counts_as_none(tmp_path: Path) -> None:
    before = inventory.snapshot(environment(tmp_path))
    (tmp_path / "pyvenv.cfg").rename(tmp_path / "other.cfg")
    (tmp_path / "pyvenv.cfg").symlink_to("other.cfg")
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == ("pyvenv.cfg was deleted",)


def test_an_older_marker_knows_nothing_of_pyvenv_cfg(tmp_path: Path) -> None:
    before = inventory.snapshot(environment(tmp_path))
    del before["pyvenv.cfg"]
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == ()


def _command_environment(root: Path) -> Path:
    """An environment with an interpreter, two ways to it, an activation script and a command."""
    environment(root)
    (root / "bin").mkdir()
    (root / "bin/python").symlink_to(sys.executable)
    (root / "bin/python3").symlink_to("python")
    (root / "bin/activate").write_text("export VIRTUAL_ENV\n")
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o755)
    return root


def _another_python(root: Path) -> None:
    (root / "bin/python").unlink()
    (root / "bin/python").symlink_to("/bin/sh")


def _an_interpreter_of_its_own(root: Path) -> None:
    (root / "bin/python3").unlink()
    (root / "bin/python3").write_text("#!/bin/false\n")
    (root / "bin/python3").chmod(0o755)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: None, ()),
        (_another_python, ("bin/python was changed",)),
        (_an_interpreter_of_its_own, ("bin/python3 was changed",)),
        (lambda root: (root / "bin/python3").unlink(), ("bin/python3 was deleted",)),
        (lambda root: (root / "bin/activate").write_text("curl | sh\n"), ("bin/activate was changed",)),
        (lambda root: (root / "bin/activate").touch(), ()),
        (lambda root: (root / "bin/tool").chmod(0o644), ("bin/tool can't be executed any more",)),
    ],
)
def test_what_makes_it_an_environment_is_compared(
    tmp_path: Path, change: Callable[[Path], object], told: tuple[str, ...]
) -> None:
    before = inventory.snapshot(_command_environment(tmp_path))
    change(tmp_path)
    assert inventory.drifted(before, inventory.snapshot(tmp_path)) == told


def test_an_older_marker_knows_nothing_of_interpreters(tmp_path: Path) -> None:
    now = inventory.snapshot(_command_environment(tmp_path))
    before = {name: seen for name, seen in now.items() if not name.startswith("bin/")}
    assert inventory.drifted(before, now) == ()


def _add(root: Path) -> None:
    path = root / SITE / "my_package" / "extra.py"
    path.write_text("")
    os.utime(path, (0, 0))  # as `cp -p` and tar leave it


def _edit_a_linked_file(root: Path) -> None:
    path = root / SITE / "my_package" / "__init__.py"
    path.with_suffix(".cache").hardlink_to(path)
    path.with_suffix(".cache").rename(root.parent / "cached")
    path.write_text("y")


@pytest.mark.parametrize(
    "touch",
    [
        _add,
        _edit_a_linked_file,
        lambda root: (root / SITE / "my_package" / "__init__.py").write_text("y"),
        lambda root: (root / SITE / "my_package" / "__init__.py").unlink(),
        lambda root: (root / SITE / "my_package").rename(root / SITE / "renamed"),
        lambda root: (root / "empty").mkdir(),
    ],
)
def test_what_was_touched_is_noticed(tmp_path: Path, touch: Callable[[Path], object]) -> None:
    root = tmp_path / "environment"
    root.mkdir()
    names, since = inventory.names_digest(environment(root)), time.time()
    time.sleep(0.02)  # the kernel's clock for files is coarser
    assert inventory.untouched(root, names=names, since=since)
    touch(root)
    assert not inventory.untouched(root, names=names, since=since)


def test_what_python_and_mlenv_write_touches_nothing(tmp_path: Path) -> None:
    names, since = inventory.names_digest(environment(tmp_path)), time.time()
    time.sleep(0.02)
    (tmp_path / "mlenv.json").write_text("{}")
    (tmp_path / SITE / "my_package" / "__pycache__").mkdir()
    (tmp_path / SITE / "my_package" / "__pycache__" / "a.pyc").write_text("")
    assert inventory.untouched(tmp_path, names=names, since=since)
