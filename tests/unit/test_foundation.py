from __future__ import annotations

import pytest

from mlenv.foundation import FoundationNames, colliding, cuda_family, known_names

NAMES = FoundationNames(
    exact=("torch", "torchvision", "triton", "tensorflow", "jaxlib", "cuda-toolkit"),
    patterns=("nvidia-*", "jax-cuda*-plugin"),
    excluded=("nvidia-ml-py", "nvidia-dali-*"),
)


@pytest.mark.parametrize(
    "name", ["torch", "Torch", "cuda_toolkit", "nvidia-cublas", "NVIDIA.NCCL_cu13", "jax-cuda13-plugin"]
)
def test_the_foundation_owns_exact_names_and_patterns_however_spelled(name: str) -> None:
    assert NAMES.owns(name)


@pytest.mark.parametrize("name", ["torchao", "nvidia-ml-py", "nvidia_ml_py", "nvidia-dali-cuda130", "sympy", "nvidia"])
def test_look_alikes_are_application(name: str) -> None:
    assert not NAMES.owns(name)


def _with(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> FoundationNames:
    return FoundationNames(
        exact=NAMES.exact, patterns=NAMES.patterns, excluded=NAMES.excluded, include=include, exclude=exclude
    )


def test_a_users_include_adds_a_name() -> None:
    assert _with(include=("My_CUDA.kernels",)).owns("my-cuda-kernels")


def test_a_users_include_wins_over_the_data() -> None:
    assert _with(include=("nvidia-ml-py",)).owns("nvidia-ml-py")


def test_a_users_exclude_wins_over_a_pattern() -> None:
    assert not _with(exclude=("nvidia-*-widget",)).owns("nvidia-jupyter-widget")


def test_a_users_exclude_wins_over_an_exact_name() -> None:
    assert not _with(exclude=("tensorflow",)).owns("tensorflow")


def test_a_root_belongs_even_where_it_is_excluded() -> None:
    assert _with(include=("torch",), exclude=("torch",)).owns("torch")


def test_an_exact_name_is_not_taken_out_by_an_excluded_pattern() -> None:
    names = FoundationNames(exact=("nvidia-dali-core",), patterns=("nvidia-*",), excluded=("nvidia-dali-*",))
    assert names.owns("nvidia-dali-core")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("nvidia-nccl-cu13", ("nvidia-nccl", "cu13")),
        ("NVIDIA_cuda_runtime.CU12", ("nvidia-cuda-runtime", "cu12")),
        ("cupy-cuda12x", ("cupy", "cuda12x")),
        ("nvidia-cublas", None),
        ("jax-cuda13-plugin", None),
        ("torch", None),
        ("cu13", None),
    ],
)
def test_cuda_family(name: str, family: tuple[str, str] | None) -> None:
    assert cuda_family(name) == family


def test_one_component_under_two_cuda_suffixes_collides() -> None:
    names = ["nvidia-nccl-cu13", "torch", "NVIDIA_nccl_cu12", "nvidia-cudnn-cu13"]
    assert colliding(names) == (("nvidia-nccl-cu12", "nvidia-nccl-cu13"),)


def test_three_suffixes_are_three_pairs() -> None:
    assert len(colliding(["cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"])) == 3


def test_unsuffixed_cuda_13_packages_collide_with_nobody() -> None:
    assert colliding(["nvidia-cublas", "nvidia-cublas-cu12", "nvidia-nccl-cu13"]) == ()


def test_one_package_in_two_spellings_does_not_collide_with_itself() -> None:
    assert colliding(["nvidia-nccl-cu13", "nvidia_nccl_cu13"]) == ()


def test_known_pairs_collide_where_both_are_present() -> None:
    pairs = [("onnxruntime_gpu", "onnxruntime"), ("a", "b")]
    assert colliding(["onnxruntime", "onnxruntime-gpu", "a"], pairs=pairs) == (("onnxruntime", "onnxruntime-gpu"),)


def test_the_names_that_come_with_mlenv() -> None:
    names = known_names()
    assert {"torch", "torchvision", "torchaudio", "torchcodec", "tensorflow", "jaxlib", "triton"} <= set(names.exact)
    for name, owned in (("torchao", False), ("nvidia-cublas", True), ("nvidia-ml-py", False)):
        assert names.owns(name) == owned
