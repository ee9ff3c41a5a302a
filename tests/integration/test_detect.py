"""The real nvidia-ml-py against a stand-in for NVML, through every answer it may give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlenv.machine import Machine, from_json
from support.nvml_stub import LIBRARY, StubGpu, answers, build, compiler

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in for NVML is built for Linux")

SOURCE = Path(__file__).parents[2] / "src"
OBSERVE = """
import json, os, sys
from pathlib import Path
from mlenv.system.probe import observe
print(json.dumps(observe(os.environ, root=Path(sys.argv[1])).as_json()))
"""
H100 = StubGpu()
P40 = StubGpu(name="Tesla P40", uuid="GPU-2", capability="6.1", memory_mib=24576)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler: NVML's stand-in can't be built")
    return build(tmp_path_factory.mktemp("nvml"), cc=cc)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without any hardware, container or WSL2."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def no_library(tmp_path: Path) -> Path:
    """What the loader finds first and can't load, so that a real driver of this machine doesn't count."""
    broken = tmp_path / "broken" / LIBRARY
    broken.parent.mkdir()
    broken.write_bytes(b"not a library")
    return broken


def _environment(library: Path, variables: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "NVML_STUB_", "KUBERNETES_"))}
    return {**kept, "LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": str(SOURCE), **variables}


def _observe(library: Path, root: Path, variables: Mapping[str, str]) -> Machine:
    environ = _environment(library, variables)
    ran = subprocess.run(
        [sys.executable, "-c", OBSERVE, str(root)], env=environ, capture_output=True, text=True, check=True
    )
    return from_json(json.loads(ran.stdout))


def _kinds(machine: Machine) -> list[str]:
    return [found.kind for found in machine.findings]


def test_driver_and_gpus_are_read(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, P40))
    assert (machine.driver, machine.cuda) == ("580.65.06", (13, 0))
    assert [(g.index, g.name, g.uuid, g.memory_mib, g.compute_capability, g.visible) for g in machine.gpus] == [
        (0, "NVIDIA H100", "GPU-1", 81559, (9, 0), True),
        (1, "Tesla P40", "GPU-2", 24576, (6, 1), True),
    ]
    assert machine.findings == ()


@pytest.mark.parametrize(("number", "cuda"), [("12040", (12, 4)), ("13000", (13, 0)), ("13100", (13, 10))])
def test_the_cuda_version_is_the_drivers_not_nvmls(
    library: Path, root: Path, number: str, cuda: tuple[int, int]
) -> None:
    assert _observe(library, root, answers(H100, cuda=number)).cuda == cuda


def test_a_gpu_without_memory_of_its_own_is_no_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(StubGpu(name="NVIDIA GB10", capability="12.1", memory_mib=None)))
    assert machine.gpus[0].memory_mib is None
    assert machine.findings == ()


def test_no_gpu_behind_a_working_driver_is_no_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers())
    assert (machine.gpus, machine.findings) == ((), ())


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (9, "driver-not-loaded", "modprobe"),
        (18, "driver-version-mismatch", "reboot"),
        (4, "driver-no-permission", "/dev/nvidia"),
        (999, "driver-unknown-error", "dmesg"),
        (15, "gpu-lost", "reboot"),
        (17, "driver-error", "nvidia-smi"),
    ],
)
def test_each_error_of_the_driver_is_a_finding_with_its_remedy(
    library: Path, root: Path, code: int, kind: str, remedy: str
) -> None:
    machine = _observe(library, root, answers(H100, init=code))
    assert _kinds(machine) == [kind]
    assert remedy in str(machine.findings[0].hint)
    assert machine.driver_fault is not None
    assert machine.gpus == ()


def test_an_error_that_nvml_names_itself_is_told_with_its_number(library: Path, root: Path) -> None:
    assert "NVML error 17" in _observe(library, root, answers(init=17)).findings[0].message


def test_a_count_that_fails_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, count=999))
    assert _kinds(machine) == ["driver-unknown-error"]
    assert machine.driver == "580.65.06"


def test_one_unreadable_gpu_leaves_the_others(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(StubGpu(error=15), P40))
    assert [gpu.index for gpu in machine.gpus] == [1]
    assert _kinds(machine) == ["gpu-unreadable"]
    assert machine.findings[0].message.startswith("GPU 0 ")


def test_a_driver_without_libcuda_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, cuda="!12"))
    assert machine.cuda is None
    assert _kinds(machine) == ["cuda-library-missing"]


def test_an_old_driver_that_tells_no_cuda_version_is_no_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, cuda="!13"))
    assert (machine.cuda, machine.driver, machine.findings) == (None, "580.65.06", ())


def test_without_library_and_hardware_there_is_no_gpu_and_no_finding(no_library: Path, root: Path) -> None:
    machine = _observe(no_library, root, {})
    assert (machine.driver, machine.gpus, machine.findings) == (None, (), ())


@pytest.mark.parametrize(("container", "remedy"), [(False, "install the NVIDIA driver"), (True, "--gpus all")])
def test_hardware_without_library_is_a_finding(no_library: Path, root: Path, container: bool, remedy: str) -> None:
    (root / "proc/driver/nvidia").mkdir(parents=True)
    if container:
        (root / ".dockerenv").touch()
    machine = _observe(no_library, root, {})
    assert _kinds(machine) == ["driver-library-missing"]
    assert remedy in str(machine.findings[0].hint)


def test_on_wsl2_the_library_of_windows_is_found(library: Path, no_library: Path, root: Path) -> None:
    windows = root / "usr/lib/wsl/lib" / LIBRARY
    windows.parent.mkdir(parents=True)
    windows.write_bytes(library.read_bytes())
    (root / "dev").mkdir()
    (root / "dev/dxg").touch()
    release = root / "proc/sys/kernel/osrelease"
    release.parent.mkdir(parents=True)
    release.write_text("6.6.87.2-microsoft-standard-WSL2\n")
    machine = _observe(no_library, root, answers(H100))
    assert machine.wsl
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA H100"]


@pytest.mark.parametrize(
    ("setting", "visible"),
    [("1", [1]), ("GPU-2", [1]), ("", []), ("-1", []), ("0,7,1", [0]), ("MIG-b", [0])],
)
def test_cuda_visible_devices_decides_what_is_visible(
    library: Path, root: Path, setting: str, visible: list[int]
) -> None:
    gpus = (StubGpu(mig=("MIG-a", "MIG-b")), P40)
    machine = _observe(library, root, {**answers(*gpus), "CUDA_VISIBLE_DEVICES": setting})
    assert [gpu.index for gpu in machine.visible_gpus] == visible
    assert len(machine.gpus) == 2


def test_a_device_that_is_not_there_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, {**answers(H100), "CUDA_VISIBLE_DEVICES": "0,7"})
    assert _kinds(machine) == ["visible-devices-invalid"]
    assert machine.driver_fault is None


@pytest.mark.parametrize(
    ("order", "kinds"), [({}, ["visible-devices-order"]), ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [])]
)
def test_a_number_among_unlike_gpus_is_noted(
    library: Path, root: Path, order: dict[str, str], kinds: list[str]
) -> None:
    machine = _observe(library, root, {**answers(H100, P40), "CUDA_VISIBLE_DEVICES": "0", **order})
    assert _kinds(machine) == kinds


# ---- the command itself


def _detect(library: Path, project: Path, variables: Mapping[str, str], *words: str) -> tuple[int, dict[str, object]]:
    (project / "constraints").mkdir(parents=True)
    (project / "requirements.in").write_text("sympy\n")
    for backend, torch in (("cpu", "2.15.0"), ("cu126", "2.14.1"), ("cu132", "2.15.0")):
        (project / "constraints" / f"{backend}.txt").write_text(f"torch=={torch}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "mlenv", "detect", "--json", *words],
        env=_environment(library, variables),
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout)


def test_detect_takes_the_newest_build_that_has_code_for_the_gpu(library: Path, tmp_path: Path) -> None:
    code, told = _detect(library, tmp_path / "project", answers(P40))
    assert (code, told["backend"]) == (0, "cu126")
    assert {"backend": "cpu", "reason": "a GPU is visible"} in told["passed_over"]  # type: ignore[operator]


def test_detect_shows_the_machine_and_exits_4_where_the_driver_is_broken(library: Path, tmp_path: Path) -> None:
    code, told = _detect(library, tmp_path / "project", answers(init=18))
    assert (code, told["backend"]) == (4, None)
    assert told["machine"]["findings"][0]["kind"] == "driver-version-mismatch"  # type: ignore[index]


def test_detect_refuses_what_was_asked_for_where_the_gpu_can_not_run_it(library: Path, tmp_path: Path) -> None:
    code, told = _detect(library, tmp_path / "project", answers(P40), "--cuda13")
    assert (code, told["backend"]) == (4, None)
    assert "compute capability 6.1 has no code in it" in json.dumps(told["passed_over"])
