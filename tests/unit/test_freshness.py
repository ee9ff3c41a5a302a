from __future__ import annotations

from pathlib import Path

import pytest

from mlenv import freshness

LOCK = """\
#
# mlenv scheme: 1
# mlenv input: requirements.in sha256:1
# mlenv input: more/base.in sha256:2
# mlenv settings: sha256:3
#
a==1.0 \\
    --hash=sha256:4
b[x]==2
"""
FILES = {"requirements.in": "a\n", "more/base.in": "b[x]\n", "constraints/cpu.txt": "torch==2.15.0\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    stamp(tmp_path)
    return tmp_path


def stamp(root: Path, **overrides: object) -> None:
    inputs = ("requirements.in", "more/base.in")
    text = freshness.stamped(LOCK, root, inputs, overrides, before=freshness.seen(root, inputs, overrides))
    (root / "requirements.txt").write_text(text)


def test_the_line_stands_after_the_inputs_and_can_be_taken_out(root: Path) -> None:
    text = (root / "requirements.txt").read_text()
    assert text.splitlines()[4].startswith("# mlenv files: sha256:")
    assert freshness.unstamped(text) == LOCK


def test_untouched_files_are_current(root: Path) -> None:
    assert freshness.unchanged(root, {}) == ("requirements.txt", 2)


@pytest.mark.parametrize("path", [*FILES, "constraints/cu130.txt"])
def test_a_byte_in_any_input_or_a_new_one_is_no_yes(root: Path, path: str) -> None:
    with (root / path).open("a") as file:
        file.write("\n# x\n")
    assert freshness.unchanged(root, {}) is None


def test_of_pyproject_toml_the_settings_count(root: Path) -> None:
    (root / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    assert freshness.unchanged(root, {}) is not None
    (root / "pyproject.toml").write_text('[tool.mlenv]\nbuild = ["a"]\n')
    assert freshness.unchanged(root, {}) is None


@pytest.mark.parametrize("path", FILES)
def test_a_missing_input_is_no_yes(root: Path, path: str) -> None:
    (root / path).unlink()
    assert freshness.unchanged(root, {}) is None


def test_every_byte_of_the_lock_counts(root: Path) -> None:
    lock = root / "requirements.txt"
    whole = lock.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        lock.write_bytes(bytes(changed))
        assert freshness.unchanged(root, {}) is None, position


def test_gits_line_ends_count_for_nothing(root: Path) -> None:
    for path in (*FILES, "requirements.txt"):
        (root / path).write_bytes((root / path).read_bytes().replace(b"\n", b"\r\n"))
    assert freshness.unchanged(root, {}) is not None


def test_other_words_on_the_command_line_are_no_yes(root: Path) -> None:
    assert freshness.unchanged(root, {"backends": ("cpu",)}) is None
    stamp(root, backends=("cpu",))
    assert freshness.unchanged(root, {"backends": ("cpu",)}) is not None


@pytest.mark.parametrize(
    "settings",
    [
        '[tool.mlenv.backends.cpu]\nlock = "cpu.txt"\n',
        '[tool.mlenv]\nlock = "other.txt"\n',
        '[tool.mlenv]\nrequired-version = ">=0"\n',
    ],
)
def test_what_it_does_not_know_is_no_yes(root: Path, settings: str) -> None:
    (root / "pyproject.toml").write_text(settings)
    stamp(root)
    assert freshness.unchanged(root, {}) is None


def test_a_backend_that_a_plugin_may_bring_is_no_yes(root: Path) -> None:
    (root / "constraints/rocm7.1.txt").write_text("torch==2.15.0\n")
    stamp(root)
    assert "# mlenv files" not in (root / "requirements.txt").read_text()
    assert freshness.unchanged(root, {}) is None


def test_settings_that_are_no_toml_are_no_yes(root: Path) -> None:
    (root / "pyproject.toml").write_text("[not toml")
    assert freshness.unchanged(root, {}) is None


def test_of_uv_toml_all_but_the_urls_counts(root: Path) -> None:
    (root / "uv.toml").write_text('[[index]]\nname = "a"\nurl = "https://one.example"\nexplicit = true\n')
    assert freshness.unchanged(root, {}) is None
    stamp(root)
    (root / "uv.toml").write_text('[[index]]\nname = "a"\nurl = "https://two.example"\nexplicit = true\n')
    assert freshness.unchanged(root, {}) is not None
    (root / "uv.toml").unlink()
    assert freshness.unchanged(root, {}) is None


def test_a_file_that_was_saved_while_the_lock_was_made_is_not_vouched_for(root: Path) -> None:
    inputs = ("requirements.in", "more/base.in")
    before = freshness.seen(root, inputs, {})
    (root / "requirements.in").write_text("saved = meanwhile\n")
    assert freshness.stamped(LOCK, root, inputs, {}, before=before) == LOCK
    (root / "pyproject.toml").write_text("[tool\n")
    assert freshness.stamped(LOCK, root, inputs, {}, before=before) == LOCK
