from __future__ import annotations

import pytest

from mlenv import collisions
from mlenv.collisions import Collision
from mlenv.errors import ExitCode

RECORD = """\
nvidia/__init__.py,sha256=empty,0
"odd, name.py",sha256=odd,3
a-1.0.data/purelib/pure.py,sha256=pure,3
a-1.0.data/platlib/plat.so,sha256=plat,3
a-1.0.data/scripts/tool,sha256=tool,3
a-1.0.dist-info/METADATA,sha256=meta,3
a-1.0.dist-info/RECORD,,
unhashed.pyc,,
"""


def test_a_record_says_where_its_files_come_to_lie() -> None:
    assert collisions.installed_files(RECORD) == {
        "nvidia/__init__.py": "sha256=empty",
        "odd, name.py": "sha256=odd",
        "pure.py": "sha256=pure",
        "plat.so": "sha256=plat",
        ".data/scripts/tool": "sha256=tool",
    }


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a": {"x": "1"}, "b": {"y": "2"}}, ()),
        ({"a": {"x": "1"}, "b": {"x": "1"}}, ()),
        ({"b": {"x": "1", "w": "1"}, "a": {"x": "2", "w": "2"}}, (Collision(packages=("a", "b"), paths=("w", "x")),)),
        (
            {"a": {"x": "1"}, "b": {"x": "1", "y": "1"}, "c": {"x": "2", "y": "2"}},
            (Collision(packages=("a", "b", "c"), paths=("x",)), Collision(packages=("b", "c"), paths=("y",))),
        ),
    ],
)
def test_only_other_bytes_at_one_path_collide(files: dict[str, dict[str, str]], found: tuple[Collision, ...]) -> None:
    assert collisions.find(files) == found


def test_they_are_named_with_a_few_of_the_files() -> None:
    found = (Collision(packages=("a", "b"), paths=tuple("vwxyz")), Collision(packages=("b", "c"), paths=("p",)))
    error = collisions.refusal(found, {"a": "1", "b": "2", "c": "3"}, backend="cu130")
    assert error.code is ExitCode.RESOLUTION
    assert error.message.splitlines()[1:] == ["  a 1 and b 2: v, w, x and 2 more", "  b 2 and c 3: p"]
