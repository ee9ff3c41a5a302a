"""Machines x backends: which one each machine gets, and why it can't have each other one.

The expectations were worked out by hand from the facts that ``source`` names, not by running the code. Short words for
the reasons: ``driver`` (too old for the CUDA major), ``code`` (none for the card), ``build`` (none on the platform),
``older`` (runs, and a newer one does too), ``gpu`` (a GPU is there), ``none`` (no GPU is there), ``mac``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mlenv.backend import Automatic, choose, obstacles
from mlenv.catalogue import load
from mlenv.errors import NoBackendError
from mlenv.machine import Gpu, Machine

DECLARED: dict[str, str | None] = {
    "cpu": "2.15.0",
    "cu118": "2.7.1",
    "cu126": "2.14.1",
    "cu128": "2.11.0",
    "cu129": "2.13.0",
    "cu130": "2.14.1",
    "cu132": "2.15.0",
}
WORDS = {
    "driver": "needs a driver for CUDA",
    "code": "no code in it",
    "build": "builds of it",
    "older": "is newer",
    "gpu": "a GPU is visible",
    "none": "no NVIDIA GPU is there",
}

# Where the facts are from.
FLOORS = "CUDA 13.4 U1 release notes: 13.x needs 580, 12.x 525.60.13 (Windows 528.33), 11.x 450.80.02"
CU13 = "torch 2.14.1 and 2.15.0 wheels: cu130 and cu132 have 7.5 to 12.0 (x86_64), 8.0, 9.0, 10.0, 11.0, 12.0 (aarch64)"
CU126 = "torch 2.14.1 wheel: cu126 has 5.0 to 9.0 (x86_64), 8.0 and 9.0 (aarch64)"
CU128 = "pytorch PR 175253: cu128 of 2.11 has 7.5 to 12.0, Volta dropped; torch 2.13.0 wheel: cu129 the same"
CU118 = "moi90/pytorch_compute_capabilities: cu118 of 2.7 has 3.7 to 9.0"
WINDOWS = "test-infra CUDA_ARCHES_NO_WINDOWS: cu129 is not built for Windows"
ORIN = "torch/cuda/__init__.py: 8.7 runs code for 8.0 from CUDA 13.2 on; before, integrated GPUs don't"
THOR = "torch/cuda/__init__.py: 11.0 runs code for 10.1 and 11.0 alone"
GRACE = "PYTORCH_RELEASES_CODE_CC, aarch64; no aarch64 builds of cu118"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One machine, the backend it gets (None: none fits), and a word for each backend that it doesn't get."""

    machine: str
    gpus: tuple[tuple[int, int], ...]
    driver: tuple[str, tuple[int, int]] | None
    gets: str | None
    others: dict[str, str]
    source: tuple[str, ...]
    more: dict[str, Any] = field(default_factory=dict)


def _others(**words: str) -> dict[str, str]:
    """Backends by word: ``code="cu130 cu132"``."""
    return {backend: word for word, backends in words.items() for backend in backends.split()}


R580, R535, R525, R470, R570 = (
    ("580.65.06", (13, 0)),
    ("535.54.03", (12, 2)),
    ("525.60.13", (12, 0)),
    ("470.57.02", (11, 4)),
    ("570.26", (12, 8)),
)
OLDER = "cu118 cu126 cu128 cu129 cu130"
AARCH64 = {"arch": "aarch64"}

ROWS = [
    Row(
        machine="GTX 1080, driver 580",
        gpus=((6, 1),),
        driver=R580,
        gets="cu126",
        others=_others(code="cu132 cu130 cu129 cu128", older="cu118", gpu="cpu"),
        source=(FLOORS, CU13, CU126, CU128),
    ),
    Row(
        machine="V100, driver 535",
        gpus=((7, 0),),
        driver=R535,
        gets="cu126",
        others=_others(driver="cu132 cu130", code="cu129 cu128", older="cu118", gpu="cpu"),
        source=(FLOORS, CU126, CU128),
    ),
    Row(
        machine="V100, driver 580",
        gpus=((7, 0),),
        driver=R580,
        gets="cu126",
        others=_others(code="cu132 cu130 cu129 cu128", older="cu118", gpu="cpu"),
        source=(FLOORS, CU13, CU126, CU128),
    ),
    Row(
        machine="T4, driver 580",
        gpus=((7, 5),),
        driver=R580,
        gets="cu132",
        others=_others(older=OLDER, gpu="cpu"),
        source=(FLOORS, CU13),
    ),
    Row(
        machine="A100, driver 470",
        gpus=((8, 0),),
        driver=R470,
        gets="cu118",
        others=_others(driver="cu132 cu130 cu129 cu128 cu126", gpu="cpu"),
        source=(FLOORS, CU118),
    ),
    Row(
        machine="A100, driver 525",
        gpus=((8, 0),),
        driver=R525,
        gets="cu129",
        others=_others(driver="cu132 cu130", older="cu128 cu126 cu118", gpu="cpu"),
        source=(FLOORS, CU128),
    ),
    Row(
        machine="A100, driver 580",
        gpus=((8, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older=OLDER, gpu="cpu"),
        source=(FLOORS, CU13),
    ),
    Row(
        machine="RTX 4090, driver 580",
        gpus=((8, 9),),
        driver=R580,
        gets="cu132",
        others=_others(older=OLDER, gpu="cpu"),
        source=(FLOORS, CU13, "8.9 runs code for 8.6: the same major, no newer minor"),
    ),
    Row(
        machine="H100, driver 535",
        gpus=((9, 0),),
        driver=R535,
        gets="cu129",
        others=_others(driver="cu132 cu130", older="cu128 cu126 cu118", gpu="cpu"),
        source=(FLOORS, CU128),
    ),
    Row(
        machine="H200, driver 580",
        gpus=((9, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older=OLDER, gpu="cpu"),
        source=(FLOORS, CU13),
    ),
    Row(
        machine="B200, driver 570",
        gpus=((10, 0),),
        driver=R570,
        gets="cu129",
        others=_others(driver="cu132 cu130", older="cu128", code="cu126 cu118", gpu="cpu"),
        source=(FLOORS, CU126, CU128, CU118),
    ),
    Row(
        machine="B200, driver 580",
        gpus=((10, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older="cu130 cu129 cu128", code="cu126 cu118", gpu="cpu"),
        source=(FLOORS, CU13, CU126, CU118),
    ),
    Row(
        machine="RTX 5090, driver 580",
        gpus=((12, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older="cu130 cu129 cu128", code="cu126 cu118", gpu="cpu"),
        source=(FLOORS, CU13, CU126, CU118),
    ),
    Row(
        machine="RTX 4090 and GTX 1080, driver 580",
        gpus=((8, 9), (6, 1)),
        driver=R580,
        gets="cu126",
        others=_others(code="cu132 cu130 cu129 cu128", older="cu118", gpu="cpu"),
        source=(CU13, CU126, "every visible GPU must run"),
    ),
    Row(
        machine="RTX 5090 and GTX 1080, driver 580",
        gpus=((12, 0), (6, 1)),
        driver=R580,
        gets=None,
        others=_others(code="cu132 cu130 cu129 cu128 cu126 cu118"),
        source=(CU13, CU126, CU128, "no build has code for both"),
    ),
    Row(
        machine="MIG slice of an A100, driver 525",
        gpus=((8, 0),),
        driver=R525,
        gets="cu129",
        others=_others(driver="cu132 cu130", older="cu128 cu126 cu118", gpu="cpu"),
        source=(FLOORS, "a MIG slice has its GPU's compute capability"),
        more={"mig": ("MIG-1",)},
    ),
    Row(
        machine="WSL2, RTX 4090, Windows' driver 580.88",
        gpus=((8, 9),),
        driver=("580.88", (13, 0)),
        gets="cu132",
        others=_others(older=OLDER, gpu="cpu"),
        source=(FLOORS, CU13, "on WSL2 Linux wheels run on the driver of Windows"),
        more={"wsl": True},
    ),
    Row(
        machine="Windows, RTX 4090, driver 566",
        gpus=((8, 9),),
        driver=("566.03", (12, 7)),
        gets="cu128",
        others=_others(driver="cu132 cu130", build="cu129", older="cu126 cu118", gpu="cpu"),
        source=(FLOORS, WINDOWS, CU128),
        more={"os": "windows"},
    ),
    Row(
        machine="Jetson Orin, CUDA 13.2",
        gpus=((8, 7),),
        driver=("595.45.04", (13, 2)),
        gets="cu132",
        others=_others(code="cu130 cu129 cu128 cu126", build="cu118", gpu="cpu"),
        source=(ORIN, GRACE),
        more={**AARCH64, "jetson": True},
    ),
    Row(
        machine="Jetson Orin, JetPack 6 (CUDA 12.6)",
        gpus=((8, 7),),
        driver=("540.4.0", (12, 6)),
        gets=None,
        others=_others(driver="cu132 cu130", code="cu129 cu128 cu126", build="cu118"),
        source=(ORIN, FLOORS, GRACE),
        more={**AARCH64, "jetson": True},
    ),
    Row(
        machine="Jetson Thor, CUDA 13.0",
        gpus=((11, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older="cu130", code="cu129 cu128 cu126", build="cu118", gpu="cpu"),
        source=(THOR, CU13, GRACE),
        more={**AARCH64, "jetson": True},
    ),
    Row(
        machine="GH200, driver 580",
        gpus=((9, 0),),
        driver=R580,
        gets="cu132",
        others=_others(older="cu130 cu129 cu128 cu126", build="cu118", gpu="cpu"),
        source=(GRACE, CU13),
        more=AARCH64,
    ),
    Row(
        machine="no GPU, a driver",
        gpus=(),
        driver=R580,
        gets="cpu",
        others=_others(none="cu132 cu130 cu129 cu128 cu126 cu118"),
        source=("a CUDA build would run and bring gigabytes for nothing",),
    ),
    Row(
        machine="no GPU, no driver",
        gpus=(),
        driver=None,
        gets="cpu",
        others=_others(none="cu132 cu130 cu129 cu128 cu126 cu118"),
        source=("the same",),
    ),
]


def _machine(row: Row) -> Machine:
    more = {"os": "linux", "arch": "x86_64", **row.more}
    mig = more.pop("mig", ())
    gpus = tuple(
        Gpu(index=n, name="GPU", uuid="", memory_mib=None, compute_capability=capability, visible=True, mig=mig)
        for n, capability in enumerate(row.gpus)
    )
    driver, cuda = row.driver or (None, None)
    return Machine(driver=driver, cuda=cuda, gpus=gpus, **more)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.machine)
def test_each_machine_gets_what_the_facts_say(row: Row) -> None:
    machine = _machine(row)
    assert set(row.others) | {row.gets or "cpu"} == set(DECLARED), "a row says something of every backend"
    if row.gets is None:
        with pytest.raises(NoBackendError):
            choose(catalogue=load(), machine=machine, declared=DECLARED, request=Automatic(), python="3.12")
        passed = obstacles(catalogue=load(), machine=machine, declared=DECLARED)
    else:
        choice = choose(catalogue=load(), machine=machine, declared=DECLARED, request=Automatic(), python="3.12")
        assert choice.backend == row.gets
        passed = choice.passed_over
    told = {other.backend: other.reason for other in passed}
    assert told.keys() == row.others.keys()
    for backend, word in row.others.items():
        assert WORDS[word] in told[backend], (backend, told[backend])
    assert row.source
