from __future__ import annotations

from pathlib import Path

import pytest

from mlenv.errors import ExitCode, ProjectError
from mlenv.overlay import Overlay, load_overlays, meaning, parse_overlay

CU130 = """\
# the foundation of one backend
torch==2.14.1+cu130
torchvision==0.29.1
torchaudio==2.11.0
nvidia-nvjitlink==13.0.88   # floats otherwise
numpy<2
"""


def overlay(root: Path, text: str, backend: str = "cu130") -> Overlay:
    (root / "constraints").mkdir(exist_ok=True)
    (root / f"constraints/{backend}.txt").write_text(text, encoding="utf-8")
    return parse_overlay(root, f"constraints/{backend}.txt")


def refused(root: Path, text: str, backend: str = "cu130") -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        overlay(root, text, backend)
    assert caught.value.code == ExitCode.PROJECT
    assert caught.value.hint
    return caught.value


def test_an_overlay_keeps_each_constraint_with_its_line(tmp_path: Path) -> None:
    found = overlay(tmp_path, CU130)
    assert (found.backend, found.path) == ("cu130", "constraints/cu130.txt")
    assert [(str(c.requirement), c.line) for c in found.constraints] == [
        ("torch==2.14.1+cu130", 2),
        ("torchvision==0.29.1", 3),
        ("torchaudio==2.11.0", 4),
        ("nvidia-nvjitlink==13.0.88", 5),
        ("numpy<2", 6),
    ]


def test_roots_are_the_pins_of_the_torch_family_tensorflow_and_jax(tmp_path: Path) -> None:
    found = overlay(tmp_path, "JAX==0.12\nfoo==1\nTorch==2.9\ntensorflow==2.21\ntriton==3\n")
    assert [str(root) for root in found.roots()] == ["jax==0.12", "torch==2.9", "tensorflow==2.21"]


def test_every_other_line_only_constrains(tmp_path: Path) -> None:
    assert [str(bound) for bound in overlay(tmp_path, CU130).bounds] == ["nvidia-nvjitlink==13.0.88", "numpy<2"]


def test_a_root_keeps_its_marker(tmp_path: Path) -> None:
    (root,) = overlay(tmp_path, "torch==2.9 ; sys_platform == 'linux'\n").roots()
    assert str(root) == 'torch==2.9; sys_platform == "linux"'


def test_the_same_pin_twice_is_one_root(tmp_path: Path) -> None:
    assert len(overlay(tmp_path, "torch==2.9\nTorch == 2.9\n").roots()) == 1


def test_a_bound_beside_a_roots_pin_only_constrains(tmp_path: Path) -> None:
    found = overlay(tmp_path, "torch==2.9\ntorch<3\n")
    assert [str(r) for r in found.roots()] == ["torch==2.9"]
    assert [str(b) for b in found.bounds] == ["torch<3"]


def test_extra_roots_are_pins_as_well(tmp_path: Path) -> None:
    found = overlay(tmp_path, "torch==2.9\nmy-kernels==1.0\n")
    assert [str(root) for root in found.roots(["My_Kernels"])] == ["torch==2.9", "my-kernels==1.0"]


def test_an_extra_root_may_carry_extras(tmp_path: Path) -> None:
    found = overlay(tmp_path, "jax==0.12\n")
    assert [str(root) for root in found.roots(["jax[cuda13]"])] == ["jax[cuda13]==0.12"]
    assert [str(root) for root in found.roots()] == ["jax==0.12"]


@pytest.mark.parametrize(
    ("text", "where"), [("torch==2.9\n", "constraints/cu130.txt"), ("torch==2.9\nfoo<2\n", "constraints/cu130.txt:2")]
)
def test_an_extra_root_without_pin_names_root_and_overlay(tmp_path: Path, text: str, where: str) -> None:
    found = overlay(tmp_path, text)
    with pytest.raises(ProjectError, match="foo") as caught:
        found.roots(["foo"])
    assert caught.value.where == where
    assert "foo==VERSION" in (caught.value.hint or "")


@pytest.mark.parametrize("root", ["foo==1", "foo bar", "", "foo @ https://example.com/x", "foo; os_name=='nt'"])
def test_an_extra_root_is_a_name(tmp_path: Path, root: str) -> None:
    found = overlay(tmp_path, "torch==2.9\nfoo==1\n")
    with pytest.raises(ProjectError, match="is no name"):
        found.roots([root])


@pytest.mark.parametrize("specifier", [">=2", "==2.*", "", "~=2.9", "==2.9,!=2.8", "===weird"])
def test_a_root_without_exact_pin_is_refused(tmp_path: Path, specifier: str) -> None:
    error = refused(tmp_path, f"numpy<2\ntorch{specifier}\n")
    assert error.where == "constraints/cu130.txt:2"
    assert "no exact pin" in error.message


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("torch==2.14.1+cu130\n", "2.14.1"),
        ("torch==2.14.1\n", "2.14.1"),
        ("torch===2.14.1\n", "2.14.1"),
        ("torch==2.16.0.dev20261120+cu130\n", "2.16.0.dev20261120"),
        ("torch==2.14.1 ; os_name=='nt'\ntorch==2.14.0 ; os_name=='posix'\n", "2.14.1"),
        ("jax==0.12\n", None),
        ("", None),
    ],
)
def test_the_public_version_of_torch(tmp_path: Path, text: str, version: str | None) -> None:
    assert overlay(tmp_path, text).torch_version == version


@pytest.mark.parametrize(
    ("line", "backend", "build"),
    [
        ("torch==2.14.1+cu126", "cu130", "cu126"),
        ("torchvision==0.29+cpu", "cu130", "cpu"),
        ("torch==2.14.1+cu130", "cpu", "cu130"),
        ("torch==2.14.1+rocm6.4", "rocm6.3", "rocm6.4"),
        ("torch==2.14.1+cpu.cxx11.abi", "cu130", "cpu"),
        ("torchao==0.14+cu126", "cu130", "cu126"),
    ],
)
def test_a_label_of_another_backend_is_refused(tmp_path: Path, line: str, backend: str, build: str) -> None:
    error = refused(tmp_path, f"# pins\n{line}\n", backend)
    assert error.where == f"constraints/{backend}.txt:2"
    assert f"is a build for {build}, and this overlay is for {backend}" in error.message


@pytest.mark.parametrize(
    ("line", "backend"),
    [
        ("torch==2.14.1+cu130", "cu130"),
        ("torch==2.14.1+rocm6.4", "rocm6.4"),
        ("torch==2.14.1+cpu.cxx11.abi", "cpu"),
        ("torch==2.14.1+cu130", "h100"),
        ("flash-attn==2.8+cu13torch2.9", "cu130"),
        ("flash-attn==2.8+mine", "cu130"),
    ],
)
def test_a_label_that_fits_or_says_nothing_is_accepted(tmp_path: Path, line: str, backend: str) -> None:
    assert len(overlay(tmp_path, f"{line}\n", backend).constraints) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("torch==2.9", "Torch==2.10"),
        ("torch==2.9", "torch>=2.10"),
        ("numpy>=2", "numpy==1.26"),
        ("torch==2.9", "torch==2.10 ; os_name == 'nt'"),
        ("torch==2.9 ; os_name=='nt'", "torch==2.10 ; os_name == 'nt'"),
        ("torch==2.14.1+cu130", "torch==2.14.2"),
    ],
)
def test_lines_that_contradict_each_other_are_refused_with_both_lines(tmp_path: Path, first: str, second: str) -> None:
    error = refused(tmp_path, f"{first}\n# between\n{second}\n")
    assert error.where == "constraints/cu130.txt:3"
    assert "contradicts" in error.message
    assert "line 1" in error.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("torch==2.14.1+cu130", "torch==2.14.1"),
        ("torch==2.9", "torch==2.9.0"),
        ("torch==2.9 ; os_name=='nt'", "torch==2.10 ; os_name=='posix'"),
        ("torch==2.9", "torch<3"),
        ("numpy<2", "numpy>=1"),
        ("foo==2.0rc1", "foo>=2.0b1"),
    ],
)
def test_lines_that_fit_together_are_accepted(tmp_path: Path, first: str, second: str) -> None:
    assert len(overlay(tmp_path, f"{first}\n{second}\n").constraints) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--index-url https://example.com/whl/cu130", "--index-url"),
        ("--extra-index-url https://example.com/whl/cu130", "--extra-index-url"),
        ("-r other.txt", "an overlay holds names and versions only"),
        ("-c other.txt", "an overlay holds names and versions only"),
        ("-e .", "an overlay holds names and versions only"),
        ("jax[cuda13]==0.12", "an overlay holds no extras"),
        ("demo @ https://example.com/demo-1.0-py3-none-any.whl", "an overlay holds names and versions only"),
        ("torch==2.9 --hash=sha256:00", "--hash"),
        ("<<<<<<< HEAD", "conflict marker"),
    ],
)
def test_whatever_is_no_constraint_is_refused(tmp_path: Path, line: str, message: str) -> None:
    error = refused(tmp_path, f"numpy<2\n{line}\n")
    assert error.where == "constraints/cu130.txt:2"
    assert message in error.message


def test_a_missing_overlay_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"constraints/cu130\.txt: does not exist"):
        parse_overlay(tmp_path, "constraints/cu130.txt")


def test_the_meaning_is_free_of_spelling_order_and_comments(tmp_path: Path) -> None:
    one = meaning(overlay(tmp_path, "torch == 2.9\nNumPy>=1,<2\n"))
    other = meaning(overlay(tmp_path, "# pins\nnumpy<2, >=1  # why\n\ntorch==2.9\ntorch==2.9\n"))
    assert one == other == "numpy<2,>=1\ntorch==2.9\n"


@pytest.mark.parametrize("text", ["torch==2.10\nnumpy<2\n", "torch==2.9\n", "torch==2.9+cu130\nnumpy<2\n"])
def test_the_meaning_changes_with_a_pin(tmp_path: Path, text: str) -> None:
    assert meaning(overlay(tmp_path, text)) != meaning(overlay(tmp_path, "torch==2.9\nnumpy<2\n"))


def test_overlays_are_loaded_by_backend_and_sorted(tmp_path: Path) -> None:
    for name in ("cu130", "cpu", "rocm6.4", "xpu", "h100"):
        overlay(tmp_path, "torch==2.9\n", name)
    for passed_over in ("README.txt", "cu130.txt.bak", ".hidden.txt", "pylock.cu130.toml", "shared-pins.txt"):
        (tmp_path / "constraints" / passed_over).write_text("not an overlay")
    found = load_overlays(tmp_path)
    assert list(found) == ["cpu", "cu130", "h100", "rocm6.4", "xpu"]
    assert found["rocm6.4"].backend == "rocm6.4"


def test_a_project_without_overlays_has_none(tmp_path: Path) -> None:
    assert load_overlays(tmp_path) == {}


def test_constraints_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "constraints").write_text("torch==2.9\n")
    with pytest.raises(ProjectError, match="constraints: is no folder"):
        load_overlays(tmp_path)


def test_an_overlay_linked_from_outside_the_project_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "project/constraints").mkdir(parents=True)
    (tmp_path / "cpu.txt").write_text("torch==2.9\n")
    (tmp_path / "project/constraints/cpu.txt").symlink_to("../../cpu.txt")
    with pytest.raises(ProjectError, match="outside the project"):
        load_overlays(tmp_path / "project")


def test_every_broken_line_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        overlay(tmp_path, "torch==2.9+cu126\ntorchvision>=1\nnumpy==1\nnumpy==2\n")
    places = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert places == [f"constraints/cu130.txt:{number}" for number in (1, 4, 2)]
