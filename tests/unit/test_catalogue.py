from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest
from packaging.version import Version

from mlenv.catalogue import cuda_of, load, minor_of

CATALOGUE = load()
PLATFORMS = ("linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64")
TURING_TO_BLACKWELL = (75, 80, 86, 90, 100, 120)


def _document() -> dict[str, Any]:
    return tomllib.loads((resources.files("mlenv.data") / "catalogue.toml").read_text(encoding="utf-8"))


def _rows() -> list[tuple[str, dict[str, Any]]]:
    data = _document()
    tables = [(name, data[name]) for name in ("index", "sass", "toolkit_driver")]
    tables += [(f"driver {row['cuda_major']}", row) for row in data["driver_family"]]
    tables += [(row["name"], row) for row in data["backend"]]
    tables += [(f"{row['name']} {code['torch']}", code) for row in data["backend"] for code in row.get("code", [])]
    return tables + [(row["torch"], row) for row in data["release"]]


@pytest.mark.parametrize(("name", "row"), _rows(), ids=[name for name, _ in _rows()])
def test_every_row_names_its_source(name: str, row: dict[str, Any]) -> None:
    assert row["source"].strip(), name


def test_every_cuda_backend_has_the_driver_its_cuda_came_with() -> None:
    table = _document()["toolkit_driver"]
    for row in _document()["backend"]:
        known = table[row["cuda"]] if "cuda" in row else {"branch": "none needed"}
        assert {"branch", "linux"} & known.keys(), row["name"]


def test_a_newer_cuda_comes_with_a_newer_driver() -> None:
    table = _document()["toolkit_driver"]
    for system in ("linux", "windows"):
        drivers = [Version(row[system]) for cuda, row in table.items() if cuda != "source" and system in row]
        assert drivers == sorted(drivers, reverse=True)
        assert drivers


def test_it_is_parsed_once() -> None:
    assert load() is load()


def test_releases_come_newest_first() -> None:
    versions = [Version(release.torch) for release in CATALOGUE.releases]
    assert versions == sorted(versions, reverse=True)


def test_every_release_says_what_the_default_index_has_on_every_platform() -> None:
    for release in CATALOGUE.releases:
        assert set(release.pypi) == set(PLATFORMS)
        assert set(release.pypi.values()) <= set(release.backends)


def test_every_backend_of_a_release_is_in_the_catalogue_with_its_gpus() -> None:
    for release in CATALOGUE.releases:
        for backend in release.backends:
            assert backend in CATALOGUE.backends
            assert backend == "cpu" or CATALOGUE.architectures(backend, release.torch, "linux-x86_64"), release


def test_no_torch_minor_has_two_rows_in_one_backend() -> None:
    for backend in CATALOGUE.backends.values():
        minors = [minor for row in backend.code for minor in row.torch]
        assert len(minors) == len(set(minors)), backend.name


def test_every_cuda_backend_has_a_driver_floor_and_the_version_in_its_name() -> None:
    for backend in CATALOGUE.backends.values():
        if not backend.is_cpu:
            assert backend.cuda is not None
            assert backend.cuda == cuda_of(backend.name)
            assert backend.cuda[0] in CATALOGUE.driver_floors


@pytest.mark.parametrize(
    ("backend", "torch", "platform", "expected"),
    [
        ("cu132", "2.15.0", "linux-x86_64", TURING_TO_BLACKWELL),
        ("cu132", "2.15.0+cu132", "windows-x86_64", TURING_TO_BLACKWELL),
        ("cu132", "2.15.0", "linux-aarch64", (80, 90, 100, 110, 120)),
        ("cu126", "2.14.1", "linux-x86_64", (50, 60, 70, 75, 80, 86, 90)),
        ("cu126", "2.9.1", "linux-aarch64", (80, 90)),
        ("cu128", "2.10.0", "linux-x86_64", (70, *TURING_TO_BLACKWELL)),
        ("cu128", "2.11.0", "linux-x86_64", TURING_TO_BLACKWELL),
        ("cu128", "2.10.0", "linux-aarch64", None),
        ("cu132", "2.16.0", "linux-x86_64", None),
        ("cu132", "2.15.0", "macos-arm64", None),
        ("cu140", "2.15.0", "linux-x86_64", None),
        ("cpu", "2.15.0", "linux-x86_64", None),
        ("cu132", "newest", "linux-x86_64", None),
    ],
)
def test_architectures_are_known_exactly_or_not_at_all(
    backend: str, torch: str, platform: str, expected: tuple[int, ...] | None
) -> None:
    assert CATALOGUE.architectures(backend, torch, platform) == expected


def test_a_torch_between_two_rows_gets_what_both_have() -> None:
    code = CATALOGUE.code("cu129", "2.11.0", "linux-x86_64")
    assert code is not None
    assert (code.architectures, code.exact) == (TURING_TO_BLACKWELL, False)  # 2.8 has 7.0 as well, 2.13 has not


def test_a_newer_torch_gets_what_the_newest_row_has() -> None:
    code = CATALOGUE.code("cu132", "2.16.0.dev20261120+cu132", "linux-x86_64")
    assert code is not None
    assert (code.architectures, code.exact) == (TURING_TO_BLACKWELL, False)


def test_a_torch_older_than_every_row_gets_nothing() -> None:
    assert CATALOGUE.code("cu132", "2.11.0", "linux-x86_64") is None


@pytest.mark.parametrize(
    ("torch", "platform", "backend"),
    [
        ("2.15.0", "linux-x86_64", "cu132"),
        ("2.15.0+cu132", "linux-x86_64", "cu132"),
        ("2.15.0", "linux-aarch64", "cu132"),
        ("2.15.0", "windows-x86_64", "cpu"),
        ("2.15.0", "macos-arm64", "cpu"),
        ("2.14.1", "linux-x86_64", "cu130"),
        ("2.10.0", "linux-x86_64", "cu128"),
        ("2.10.0", "linux-aarch64", "cpu"),
        ("2.7.0", "linux-x86_64", "cu126"),
        ("2.6.0", "linux-x86_64", "cu124"),
        ("2.16.0", "linux-x86_64", None),
        ("2.15.0", "windows-aarch64", None),
    ],
)
def test_the_default_indexs_own_build(torch: str, platform: str, backend: str | None) -> None:
    assert CATALOGUE.default_index_build(torch, platform) == backend


@pytest.mark.parametrize(
    ("backend", "python", "torch"),
    [
        ("cu132", None, "2.15.0"),
        ("cu132", "3.10", "2.14.1"),
        ("cu130", None, "2.14.1"),
        ("cu128", None, "2.11.0"),
        ("cu126", "3.9", "2.8.0"),
        ("cu134", None, None),
        ("cu132", "3.9", None),
    ],
)
def test_the_newest_release_of_a_backend(backend: str, python: str | None, torch: str | None) -> None:
    found = CATALOGUE.newest_release(backend, python=python)
    assert (found.torch if found else None) == torch


def test_torchaudio_goes_with_its_torch_until_it_was_frozen() -> None:
    for release in CATALOGUE.releases:
        frozen = Version(release.torch) >= Version("2.11.0")
        assert release.torchaudio == ("2.11.0" if frozen else release.torch)


@pytest.mark.parametrize(
    ("name", "cuda"),
    [("cu126", (12, 6)), ("cu140", (14, 0)), ("cu1310", (13, 10)), ("cu92", (9, 2)), ("cpu", None), ("rocm6.4", None)],
)
def test_a_backend_that_nobody_knows_is_read_by_its_name(name: str, cuda: tuple[int, int] | None) -> None:
    assert CATALOGUE.backend(name).cuda == cuda


@pytest.mark.parametrize(
    ("version", "minor"), [("2.14.1+cu130", (2, 14)), ("2.16.0.dev20261120", (2, 16)), ("nightly", None)]
)
def test_the_minor_of_a_torch_version(version: str, minor: tuple[int, int] | None) -> None:
    assert minor_of(version) == minor


@pytest.mark.parametrize(
    ("cubin", "device", "cuda", "runs"),
    [
        (80, (8, 0), (12, 6), True),
        (80, (8, 9), (12, 6), True),
        (86, (8, 0), (12, 6), False),
        (75, (8, 0), (12, 6), False),
        (90, (8, 9), (12, 6), False),
        (120, (12, 1), (13, 0), True),
        (120, (10, 0), (13, 0), False),
        (80, (8, 7), (13, 0), False),
        (80, (8, 7), (13, 2), True),
        (100, (10, 1), (13, 2), False),
        (100, (10, 3), (13, 0), True),
        (110, (10, 1), (13, 0), True),
        (110, (11, 0), (13, 0), True),
        (53, (5, 3), (12, 6), True),
        (53, (5, 4), (12, 6), False),
        (50, (5, 3), (12, 6), False),
        (50, (5, 2), (12, 6), True),
    ],
)
def test_which_gpu_runs_which_code(cubin: int, device: tuple[int, int], cuda: tuple[int, int], runs: bool) -> None:
    assert CATALOGUE.sass.runs(cubin, device=device, cuda=cuda) is runs


def test_an_index_url_carries_the_backend_and_the_channel() -> None:
    assert CATALOGUE.index_url("cu130").endswith("/whl/cu130")
    assert CATALOGUE.index_url("cu130", channel="nightly").endswith("/whl/nightly/cu130")
