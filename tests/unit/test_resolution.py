from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from mlenv import platforms, resolution
from mlenv.catalogue import load
from mlenv.errors import ProjectError
from mlenv.foundation import FoundationNames
from mlenv.indexes import Index
from mlenv.lockfile import Pin
from mlenv.overlay import Overlay, parse_overlay, without_label
from mlenv.resolution import Resolved, Source

NAMES = FoundationNames(exact=("torch", "triton", "cuda-toolkit"), patterns=("nvidia-*",), excluded=("nvidia-ml-py",))


def pin(name: str, *via: str, version: str = "1.0") -> Pin:
    return Pin(name=name, version=version, via=via)


def overlay(tmp_path: Path, text: str, backend: str = "cu130") -> Overlay:
    (tmp_path / "constraints").mkdir(exist_ok=True)
    (tmp_path / f"constraints/{backend}.txt").write_text(text)
    return parse_overlay(tmp_path, f"constraints/{backend}.txt")


def layers(*pins: Pin, roots: Sequence[str] = ("torch",)) -> tuple[list[str], list[str]]:
    foundation, application = resolution.split_layers(pins, names=NAMES, roots=roots)
    return [p.name for p in foundation], [p.name for p in application]


def test_what_a_root_requires_is_application() -> None:
    assert layers(pin("torch"), pin("sympy", "torch"), pin("mpmath", "sympy")) == (["torch"], ["sympy", "mpmath"])


def test_what_only_inner_foundation_packages_bring_is_foundation_however_deep() -> None:
    pins = (pin("torch"), pin("triton", "torch"), pin("setuptools", "triton"), pin("deeper", "setuptools", "triton"))
    assert layers(*pins) == (["torch", "triton", "setuptools", "deeper"], [])


def test_what_the_application_brings_too_is_application() -> None:
    pins = (pin("torch"), pin("triton", "torch"), pin("setuptools", "-r requirements.in", "triton"))
    assert layers(*pins) == (["torch", "triton"], ["setuptools"])


def test_a_constraint_brings_nothing() -> None:
    pins = (pin("torch"), pin("triton", "torch"), pin("setuptools", "-c constraints/cu130.txt", "triton"))
    assert layers(*pins) == (["torch", "triton", "setuptools"], [])


def test_a_root_of_any_name_is_foundation() -> None:
    assert layers(pin("my-kernels"), pin("numpy", "my-kernels"), roots=("my-kernels",)) == (["my-kernels"], ["numpy"])


def test_a_foundation_name_that_the_application_brings_is_foundation() -> None:
    pins = (pin("xgboost", "-r requirements.in"), pin("nvidia-nccl-cu13", "xgboost"), pin("nvidia-ml-py", "xgboost"))
    assert layers(*pins) == (["nvidia-nccl-cu13"], ["xgboost", "nvidia-ml-py"])


def test_a_root_that_the_overlay_does_not_pin_is_refused_with_who_brings_it(tmp_path: Path) -> None:
    chosen = overlay(tmp_path, "torch==2.14.1\n")
    with pytest.raises(ProjectError, match="torchaudio is needed \\(speech\\)") as caught:
        require(chosen, pin("torchaudio", "speech", version="2.11.0"))
    assert (caught.value.path, "torchaudio==2.11.0" in (caught.value.hint or "")) == ("constraints/cu130.txt", True)


def require(chosen: Overlay, *pins: Pin) -> None:
    target = platforms.environment("linux-x86_64", "3.11")
    resolution.require_pinned_roots(chosen, pins, roots=chosen.roots(), environment=target, catalogue=load())


def test_a_root_pinned_for_other_targets_alone_is_not_pinned(tmp_path: Path) -> None:
    lines = 'torch==2.13.0; python_version < "3.0"\n'
    with pytest.raises(ProjectError, match=r'pins it only where python_version < "3\.0"') as caught:
        require(overlay(tmp_path, lines), pin("torch", "a", version="2.14.1"))
    assert caught.value.line == 1
    require(overlay(tmp_path, lines + 'torch==2.14.1; python_version >= "3.0"\n'), pin("torch", "a", version="2.14.1"))


@pytest.mark.parametrize(
    ("backend", "root", "hint"),
    [
        (
            "cu132",
            "torchaudio==2.11.0",
            'require no torchaudio, or leave the backend out: [tool.mlenv] unproven = ["cu132"]',
        ),
        ("cu130", "torch==2.15.0", "add a line to constraints/cu130.txt, such as torch==2.14.1"),  # unconfirmed
        ("cu126", "torch==2.15.0", "add a line to constraints/cu126.txt, such as torch==2.14.1"),
    ],
)
def test_a_hint_names_builds_that_exist(tmp_path: Path, backend: str, root: str, hint: str) -> None:
    name, _, version = root.partition("==")
    with pytest.raises(ProjectError) as caught:
        require(overlay(tmp_path, "numpy<3\n", backend=backend), pin(name, "a", version=version))
    assert caught.value.hint == hint
    if name == "torchaudio":
        assert "torchaudio 2.11.0 has no cu132 build, it has " in caught.value.message
        assert "cu130" in caught.value.message


def test_a_chain_leads_from_the_requirements_down() -> None:
    pins = {p.name: p for p in (pin("b", "a"), pin("a", "-c c.txt", "-r requirements.in"), pin("c", "b"))}
    assert resolution.chain("c", pins) == "requirements.in → a → b → c"


def test_a_chain_through_a_circle_ends() -> None:
    pins = {p.name: p for p in (pin("a", "b"), pin("b", "a"))}
    assert resolution.chain("a", pins) == "b → a"


# --- collisions ------------------------------------------------------------------------------------------------------


def resolved(backend: str, foundation: Sequence[Pin], *, equal: bool = True) -> Resolved:
    return Resolved(backend=backend, source=Source(equal=equal), foundation=tuple(foundation), application=())


def clash(answer: Resolved) -> list[tuple[str, tuple[str, ...]]]:
    return [(p.name, p.via) for p in resolution.collision(answer) or ()]


TORCH_13 = (
    pin("torch"),
    pin("nvidia-nccl-cu13", "torch"),
    pin("nvidia-cublas", "cuda-toolkit"),
    pin("cuda-toolkit", "torch"),
)


def test_two_families_of_one_library_collide() -> None:
    found = clash(resolved("cu130", [*TORCH_13, pin("nvidia-nccl-cu12", "xgboost")]))
    assert found == [("nvidia-nccl-cu12", ("xgboost",)), ("nvidia-nccl-cu13", ("torch",))]


def test_one_family_does_not_collide() -> None:
    assert clash(resolved("cu130", [*TORCH_13[:1], pin("nvidia-nccl-cu13", "torch", "xgboost")])) == []


def test_a_stand_in_is_read_as_the_backends_family() -> None:
    """torch's own nccl would be cu12's there, whatever the stand-in says; the application's stays what it is."""
    pins = [pin("torch", "xgboost"), pin("nvidia-nccl-cu13", "torch", "xgboost")]
    found = clash(resolved("cu126", pins, equal=False))
    assert found == [("nvidia-nccl-cu12", ("torch",)), ("nvidia-nccl-cu13", ("xgboost",))]


@pytest.mark.parametrize("backend", ["cu130", "cu132", "cpu"])
def test_a_stand_in_collides_with_nothing_of_its_backends_family(backend: str) -> None:
    assert clash(resolved(backend, [pin("torch"), pin("nvidia-nccl-cu13", "torch", "xgboost")], equal=False)) == []


def test_a_stand_ins_own_libraries_are_nothing_to_the_cpu() -> None:
    assert clash(resolved("cpu", [*TORCH_13, pin("nvidia-nccl-cu12", "xgboost")], equal=False)) == []


def test_another_root_beside_a_stand_in_brings_what_it_brings() -> None:
    pins = [*TORCH_13, pin("tensorflow"), pin("nvidia-nccl-cu12", "tensorflow")]
    assert clash(resolved("cu132", pins, equal=False)) == [
        ("nvidia-nccl-cu12", ("tensorflow",)),
        ("nvidia-nccl-cu13", ("torch",)),
    ]


def test_what_is_brought_beside_torch() -> None:
    pins = [
        *TORCH_13,
        pin("nvidia-b", "-r requirements.in"),
        pin("nvidia-c", "nvidia-b"),
        pin("nvidia-d", "-c x", "torch"),
    ]
    assert sorted(resolution.brought_beside_torch(pins)) == ["nvidia-b", "nvidia-c"]


# --- what uv is given ------------------------------------------------------------------------------------------------


def test_the_generated_project_binds_names_to_explicit_indexes() -> None:
    index = Index(name="pytorch-cu130", url="https://host.invalid/whl", explicit=True)
    text = resolution.foundation_project(
        [Requirement("torch==2.14.1+cu130")],
        bindings={"torch": "pytorch-cu130", "company-core": "pytorch-cu130"},
        indexes={"pytorch-cu130": index},
        python="3.11",
    )
    import tomllib

    document = tomllib.loads(text)
    assert document["project"]["dependencies"] == ["torch==2.14.1+cu130", "company-core"]
    assert document["tool"]["uv"]["sources"]["company-core"] == {"index": "pytorch-cu130"}
    assert document["tool"]["uv"]["index"][0]["explicit"] is True


def test_the_label_is_taken_off_for_the_default_index() -> None:
    assert str(without_label(Requirement("torch==2.14.1+cu130"))) == "torch==2.14.1"


@pytest.mark.parametrize(
    ("text", "equal", "declared", "order"),
    [
        ("torch==2.14.1", False, None, ["pytorch-cu130"]),
        ("torch==2.14.1", True, None, ["default", "pytorch-cu130"]),
        ("torch==2.14.1", True, ("pytorch-cu130",), ["pytorch-cu130"]),
        ("torch==2.14.1", False, ("pytorch-cu130", "default"), ["pytorch-cu130", "default"]),
        ("tensorflow==2.21.0", False, None, ["default"]),
    ],
)
def test_the_order_of_the_sources(
    tmp_path: Path, text: str, equal: bool, declared: tuple[str, ...] | None, order: list[str]
) -> None:
    index = Index(name="pytorch-cu130", url="https://host.invalid/whl", explicit=True)
    found = resolution.source_order(
        overlay(tmp_path, text + "\n"), equal_default=equal, declared=declared, indexes={"pytorch-cu130": index}
    )
    assert [source.index for source in found] == order


def test_a_source_that_uv_toml_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="'mirror', which uv"):
        resolution.source_order(overlay(tmp_path, "torch==1\n"), equal_default=False, declared=("mirror",), indexes={})


# --- what the lock says ----------------------------------------------------------------------------------------------

OLD, WINDOWS = Marker('python_version < "3.12"'), Marker('sys_platform == "win32"')


@pytest.mark.parametrize(
    ("via", "markers", "expected"),
    [
        (("-r requirements.in",), [OLD], 'python_version < "3.12"'),
        (("-c limits.txt", "-r requirements.in"), [OLD], 'python_version < "3.12"'),
        (("-r requirements.in",), [WINDOWS, OLD], '(python_version < "3.12") or (sys_platform == "win32")'),
        (("-r requirements.in",), [OLD, OLD], 'python_version < "3.12"'),
        (("-r requirements.in",), [OLD, None], None),
        (("-r requirements.in", "other"), [OLD], 'python_version < "3.12"'),
        (("other",), [], None),
    ],
)
def test_the_marker_of_a_direct_requirement_is_kept(
    via: tuple[str, ...], markers: list[Marker | None], expected: str | None
) -> None:
    direct = {"a": markers} if markers else {}
    (found,) = resolution.joined({"linux-x86_64": {"a": pin("a", *via)}}, direct)
    assert found.marker == expected


LINUX = 'sys_platform == "linux"'


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"linux-x86_64": "1", "windows-x86_64": "1"}, [("1", None)]),
        ({"windows-x86_64": "1"}, [("1", 'sys_platform == "win32"')]),
        ({"linux-x86_64": "1", "windows-x86_64": "2"}, [("1", LINUX), ("2", 'sys_platform == "win32"')]),
    ],
)
def test_platforms_that_differ_are_kept_apart_by_markers(
    versions: dict[str, str], expected: list[tuple[str, str | None]]
) -> None:
    every = ("linux-x86_64", "windows-x86_64")
    by_platform = {p: {"a": pin("a", "b", version=versions[p])} if p in versions else {} for p in every}
    assert [(found.version, found.marker) for found in resolution.joined(by_platform, {})] == expected


def test_equal_pins_of_two_backends_are_joined() -> None:
    first = Pin(name="a", version="1", extras=("x",), hashes=("sha256:1",), via=("b",))
    second = Pin(name="a", version="1", extras=("y",), hashes=("sha256:2",), via=("-r requirements.in", "b"))
    expected = ("x", "y"), ("sha256:1", "sha256:2"), ("-r requirements.in", "b")
    merged = resolution.merge_pin(first, second)
    assert (merged.extras, merged.hashes, merged.via) == expected


def test_the_difference_between_two_locks_is_readable() -> None:
    before = [pin("gone"), pin("up"), pin("down", version="2.0"), pin("same"), pin("via")]
    after = [pin("new"), pin("up", version="1.10"), pin("down", version="1.9"), pin("same"), pin("via", "new")]
    assert [str(change) for change in resolution.changes(before, after)] == [
        "↓ down 2.0 → 1.9",
        "- gone 1.0",
        "+ new 1.0",
        "↑ up 1.0 → 1.10",
        "~ via 1.0 (hashes, extras or annotations)",
    ]
