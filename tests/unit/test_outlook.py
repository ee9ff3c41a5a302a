"""What would come next for a machine: drivers and last releases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlenv.catalogue import document, load, parse
from mlenv.judgement import Target
from mlenv.machine import Gpu, Machine
from mlenv.outlook import coming

CATALOGUE = replace(load(), toolkit_drivers={(13, 2): "595.45.04"})  # CUDA 13.2 release notes


def _machine(*cards: tuple[str, tuple[int, int]], driver: str, cuda: tuple[int, int], os: str = "linux") -> Machine:
    gpus = tuple(
        Gpu(index=n, name=name, uuid="", memory_mib=None, compute_capability=capability, visible=True)
        for n, (name, capability) in enumerate(cards)
    )
    return Machine(os=os, arch="x86_64", driver=driver, cuda=cuda, gpus=gpus)  # type: ignore[arg-type]


def _told(machine: Machine, chosen: str | None, python: str = "3.12") -> list[str]:
    return [step.message for step in coming(CATALOGUE, machine, chosen=chosen, target=Target(python=python))]


GTX_1080, A100 = ("GTX 1080", (6, 1)), ("A100", (8, 0))


def test_without_a_driver_only_the_newest_is_told() -> None:
    machine = replace(_machine(("H100", (9, 0)), driver="", cuda=(13, 0)), driver=None, cuda=None)
    assert _told(machine, None) == ["driver 580 or newer would unlock cu132 (torch 2.15.0)"]


def test_a_card_at_its_last_release() -> None:
    told = "cu126 with torch 2.14.1 is its last release: no CUDA 12 build from 2.15 on, and CUDA 13 has no code for it"
    assert _told(_machine(GTX_1080, driver="580.65.06", cuda=(13, 0)), "cu126") == [f"GTX 1080 (6.1): {told}"]


def test_a_card_that_older_builds_alone_have_code_for() -> None:
    told = _told(_machine(("K80", (3, 7)), driver="470.57.02", cuda=(11, 4)), "cu118")
    assert told == ["K80 (3.7): cu118 with torch 2.7.1 is its last release: no CUDA 11 build from 2.8 on, "
                    "and CUDA 12 has no code for it"]  # fmt: skip


@pytest.mark.parametrize(
    ("os", "driver", "cuda", "told"),
    [
        ("linux", "535.54.03", (12, 2), ["driver 580 or newer would unlock cu132 (torch 2.15.0)"]),
        (
            "linux",
            "470.57.02",
            (11, 4),
            [
                "driver 525.60.13 or newer would unlock cu126 (torch 2.14.1)",
                "driver 580 or newer would unlock cu132 (torch 2.15.0)",
            ],
        ),
        (
            "windows",
            "472.12",
            (11, 4),
            [
                "driver 528.33 or newer would unlock cu126 (torch 2.14.1)",
                "driver 580 or newer would unlock cu132 (torch 2.15.0)",
            ],
        ),
    ],
)
def test_a_driver_that_unlocks(os: str, driver: str, cuda: tuple[int, int], told: list[str]) -> None:
    assert _told(_machine(A100, driver=driver, cuda=cuda, os=os), None) == told


def test_what_another_python_has_is_unlocked_by_no_driver() -> None:
    told = _told(_machine(A100, driver="535.54.03", cuda=(12, 2)), "cu129", python="3.10")
    assert told == ["driver 580 or newer would unlock cu132 (torch 2.14.1)"]


def test_a_driver_that_a_card_has_no_code_for_unlocks_nothing() -> None:
    told = _told(_machine(GTX_1080, driver="535.54.03", cuda=(12, 2)), "cu126")
    assert not [line for line in told if "unlock" in line]


@pytest.mark.parametrize(
    ("chosen", "cuda", "told"), [("cu132", (13, 0), True), ("cu132", (13, 2), False), ("cu130", (13, 0), False)]
)
def test_the_driver_with_all_features_of_the_builds_cuda(chosen: str, cuda: tuple[int, int], told: bool) -> None:
    line = "driver 595.45.04 or newer has all of CUDA 13.2, run-time compilation of PTX included"
    assert (line in _told(_machine(A100, driver="580.65.06", cuda=cuda), chosen)) is told


@pytest.mark.parametrize(
    ("card", "cuda", "told"),
    [
        (("R100", (13, 0)), (15, 0), "R100 (13.0): newer than every build that mlenv knows"),
        (("GTX 480", (2, 0)), (9, 1), "GTX 480 (2.0): no torch that mlenv knows has code for it"),
    ],
)
def test_a_card_that_no_release_has_code_for(
    card: tuple[str, tuple[int, int]], cuda: tuple[int, int], told: str
) -> None:
    """PTX of an old build does not make that build a newer card's last one."""
    [step] = _told(_machine(card, driver="700.1", cuda=cuda), None)
    assert step.startswith(told)
    assert _told(_machine(card, driver="700.1", cuda=cuda), "acme140") == [], "something runs there"


def _jetson(name: str, capability: tuple[int, int], cuda: tuple[int, int]) -> Machine:
    return replace(_machine((name, capability), driver="540.4.0", cuda=cuda), arch="aarch64", jetson=True)


def test_a_jetson_gets_its_driver_with_jetpack() -> None:
    assert _told(_jetson("Orin", (8, 7), (12, 6)), None) == [
        "a JetPack with driver 580 or newer would unlock cu132 (torch 2.15.0)"
    ]
    told = "a JetPack of CUDA 13.2 or newer has all of CUDA 13.2, run-time compilation of PTX included"
    assert _told(_jetson("Thor", (11, 0), (13, 0)), "cu132") == [told]
    [xavier] = _told(_jetson("Xavier", (7, 2), (11, 4)), None)  # cu129 of 2.11, unconfirmed, is not its last release
    assert xavier == "Xavier (7.2): no torch that mlenv knows has code for it; NVIDIA has builds of its own for JetPack"


def test_an_unconfirmed_build_is_no_last_release() -> None:
    newest, *older = CATALOGUE.releases
    unconfirmed = replace(newest, torch="2.16.0", backends=("cpu",), unconfirmed=("cu132",))
    coming_next = replace(newest, torch="2.17.0", backends=("cpu",), unconfirmed=())
    catalogue = replace(CATALOGUE, releases=(coming_next, unconfirmed, newest, *older))
    machine = _machine(A100, driver="595.45.04", cuda=(13, 2))
    assert coming(catalogue, machine, chosen="cu132", target=Target(python="3.12")) == ()


def test_drivers_of_toolkits_are_read_where_they_are_there() -> None:
    more = {"source": "notes", "13.5": {"branch": "R615"}, "13.2": {"linux": "595.45.04"}}
    assert parse({**document(), "toolkit_driver": more}).toolkit_drivers == {(13, 2): "595.45.04"}
    assert parse({k: v for k, v in document().items() if k != "toolkit_driver"}).toolkit_drivers == {}


def test_without_a_gpu_nothing_comes() -> None:
    assert _told(Machine(os="linux", arch="x86_64"), "cpu") == []
