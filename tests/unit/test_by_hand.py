from __future__ import annotations

from pathlib import Path

import pytest

from mlenv.system import by_hand, inventory
from mlenv.system.generation import Generation

SITE = "lib/python3.11/site-packages"


@pytest.fixture
def old(tmp_path: Path) -> Generation:
    """An environment with a package that brought a command and a data file."""
    info = tmp_path / "old" / SITE / "a-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text('a.py,,\n../../../bin/a,sha256=x,1\n"../../../share/a, too.json",sha256=x,1\n')
    for name in ("pyvenv.cfg", "pylock.cpu.toml", "bin/a", "share/a, too.json", f"{SITE}/a.py"):
        (tmp_path / "old" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "old" / name).touch()
    return Generation(path=tmp_path / "old", manifest={"inventory": inventory.snapshot(tmp_path / "old")})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.txt", True),
        ("share/jupyter/kernels/mine/kernel.json", True),
        ("bin/tool", True),
        (f"{SITE}/local.pth", True),
        ("bin/__pycache__/a.pyc", False),
        (f"{SITE}/__pycache__/a.pyc", False),
        (f"{SITE}/a-1.0.dist-info/x", False),
        ("etc/same-in-the-new-one", False),
    ],
)
def test_what_was_put_in_by_hand(old: Generation, tmp_path: Path, name: str, told: bool) -> None:
    new = tmp_path / "new"
    (new / "etc").mkdir(parents=True)
    (new / "etc" / "same-in-the-new-one").touch()
    (new / "pyvenv.cfg").touch()
    assert by_hand.put_in(old, new) == ()
    (old.path / name).parent.mkdir(parents=True, exist_ok=True)
    (old.path / name).touch()
    assert by_hand.put_in(old, new) == ((name,) if told else ())
