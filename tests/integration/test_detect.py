"""The real nvidia-ml-py and ctypes against stand-ins for NVML and libcuda, through every answer they may give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlenv.machine import Machine, from_json
from support import cuda_stub, nvml_stub
from support.nvml_stub import LIBRARY, StubGpu, answers, compiler

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


ORIN = StubGpu(name="Orin", uuid="0123456789abcdef0123456789abcdef", capability="8.7", memory_mib=30697)
ORIN_UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"
NO_DEVICE = 100


@pytest.fixture(scope="session")
def cc() -> str:
    found = compiler()
    if found is None:
        pytest.skip("no C compiler: the stand-ins for the driver's libraries can't be built")
    return found


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, cc: str) -> Path:
    """NVML's stand-in. The real libcuda of this machine, if any, doesn't count."""
    folder = tmp_path_factory.mktemp("nvml")
    _broken(folder / cuda_stub.LIBRARY)
    return nvml_stub.build(folder, cc=cc)


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory, cc: str) -> Path:
    """libcuda's stand-in, and no NVML."""
    folder = tmp_path_factory.mktemp("cuda")
    _broken(folder / LIBRARY)
    return cuda_stub.build(folder, cc=cc)


@pytest.fixture(scope="session")
def both_libraries(tmp_path_factory: pytest.TempPathFactory, cc: str) -> Path:
    folder = tmp_path_factory.mktemp("both")
    cuda_stub.build(folder, cc=cc)
    return nvml_stub.build(folder, cc=cc)


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
    _broken(broken)
    _broken(broken.with_name(cuda_stub.LIBRARY))
    return broken


def _broken(library: Path) -> None:
    library.write_bytes(b"not a library")


def _put(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _environment(library: Path, variables: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "NVIDIA_", "NVML_STUB_", "KUBERNETES_"))}
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
        (4, "driver-no-permission", "/dev/nvidia"),
        (8, "gpu-power-missing", "connect"),
        (9, "driver-not-loaded", "modprobe"),
        (10, "driver-timeout", "try again"),
        (11, "driver-interrupts", "dmesg"),
        (12, "driver-library-incomplete", "at one version"),
        (13, "driver-too-old", "525"),
        (14, "gpu-inforom-corrupted", "nvidia-smi -q"),
        (15, "gpu-lost", "reboot"),
        (16, "gpu-reset-required", "--gpu-reset"),
        (17, "driver-blocked", "container"),
        (18, "driver-version-mismatch", "reboot"),
        (20, "driver-out-of-memory", "end other processes"),
        (27, "driver-not-ready", "try again"),
        (999, "driver-unknown-error", "dmesg"),
        (23, "driver-error", "nvidia-smi"),
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
    assert "NVML error 23" in _observe(library, root, answers(init=23)).findings[0].message


def test_a_count_that_fails_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, count=999))
    assert _kinds(machine) == ["driver-unknown-error"]
    assert machine.driver == "580.65.06"


@pytest.mark.parametrize(("error", "kind"), [(15, "gpu-lost"), (8, "gpu-power-missing"), (999, "gpu-unreadable")])
def test_one_unreadable_gpu_leaves_the_others(library: Path, root: Path, error: int, kind: str) -> None:
    machine = _observe(library, root, answers(StubGpu(error=error), P40))
    assert [gpu.index for gpu in machine.gpus] == [1]
    assert _kinds(machine) == [kind]
    assert machine.findings[0].message.startswith("GPU 0 ")


def test_a_driver_without_libcuda_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, cuda="!12"))
    assert machine.cuda is None
    assert _kinds(machine) == ["driver-cuda-missing"]


def test_a_cuda_version_that_can_not_be_read_is_a_finding(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(H100, cuda="!999"))
    assert (machine.cuda, _kinds(machine)) == (None, ["driver-unknown-error"])


def test_an_old_driver_without_the_function_is_judged_by_its_number(tmp_path: Path, root: Path, cc: str) -> None:
    old = nvml_stub.build(tmp_path, cc=cc, old=True)  # it has v1, which answers CUDA 99
    machine = _observe(old, root, answers(H100, driver="410.48"))
    assert (machine.cuda, machine.driver, machine.findings) == (None, "410.48", ())


def test_a_gpu_with_mig_and_no_instance_is_a_finding_and_not_visible(library: Path, root: Path) -> None:
    machine = _observe(library, root, answers(StubGpu(mig=None), P40))
    assert [gpu.visible for gpu in machine.gpus] == [False, True]
    assert _kinds(machine) == ["gpu-mig-empty"]
    assert "nvidia-smi -i 0 -mig 0" in str(machine.findings[0].hint)


def test_without_library_and_hardware_there_is_no_gpu_and_no_finding(no_library: Path, root: Path) -> None:
    machine = _observe(no_library, root, {})
    assert (machine.driver, machine.gpus, machine.findings) == (None, (), ())


PCI = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
}
MODULE = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100 PCIe\n",
}
WSL = {"proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2\n", "dev/dxg": ""}
JETSON = {"etc/nv_tegra_release": "# R35 (release), REVISION: 6.1\n"}
DOCKER = {".dockerenv": ""}


@pytest.mark.parametrize(
    ("files", "kind", "message", "remedy"),
    [
        (PCI, "driver-missing", "driver is not installed", "install the NVIDIA driver"),
        ({**PCI, "sys/module/nouveau/refcnt": "1"}, "driver-nouveau", "nouveau, which knows no CUDA", "reboot"),
        ({**PCI, **MODULE}, "driver-library-missing", "(NVIDIA H100 PCIe) is there", "of the same version"),
        ({**WSL, "usr/lib/wsl/lib/libnvidia-ml.so.1": "x"}, "driver-library-missing", "Windows'", "wsl --shutdown"),
        (JETSON, "driver-library-missing", "this Jetson has no CUDA", "nvidia-jetpack"),
        ({**PCI, **MODULE, **DOCKER}, "gpu-not-in-container", "started without it", "--gpus all"),
        ({**PCI, **DOCKER}, "gpu-not-in-container", "started without it", "nvidia.com/gpu"),
        ({**JETSON, **DOCKER}, "gpu-not-in-container", "started without it", "--runtime nvidia"),
    ],
)
def test_hardware_without_library_is_a_finding_of_its_own(
    no_library: Path, root: Path, files: dict[str, str], kind: str, message: str, remedy: str
) -> None:
    _put(root, files)
    machine = _observe(no_library, root, {})
    assert _kinds(machine) == [kind]
    assert message in machine.findings[0].message
    assert remedy in str(machine.findings[0].hint)
    assert machine.driver_fault is not None


def test_the_kernel_tells_the_drivers_number_where_no_library_does(no_library: Path, root: Path) -> None:
    _put(root, {**PCI, **MODULE})
    assert _observe(no_library, root, {}).driver == "580.65.06"


@pytest.mark.parametrize("setting", ["none", "void"])
def test_a_container_that_is_to_have_no_gpu_has_no_fault(no_library: Path, root: Path, setting: str) -> None:
    _put(root, {**PCI, **MODULE, **DOCKER})
    machine = _observe(no_library, root, {"NVIDIA_VISIBLE_DEVICES": setting})
    assert _kinds(machine) == ["container-without-gpu"]
    assert machine.driver_fault is None


@pytest.mark.parametrize(
    ("files", "kinds"), [({}, []), (PCI, ["gpu-not-listed"]), ({**PCI, **DOCKER}, ["gpu-not-in-container"])]
)
def test_a_driver_that_lists_no_gpu_although_one_is_there(
    library: Path, root: Path, files: dict[str, str], kinds: list[str]
) -> None:
    _put(root, files)
    assert _kinds(_observe(library, root, answers())) == kinds


def test_a_driver_on_a_machine_without_gpu_is_no_finding(library: Path, root: Path) -> None:
    _put(root, {"sys/module/nvidia/version": "580.65.06\n"})
    assert _observe(library, root, answers()).findings == ()


def test_on_wsl2_the_library_of_windows_is_found(library: Path, no_library: Path, root: Path) -> None:
    windows = root / "usr/lib/wsl/lib" / LIBRARY
    windows.parent.mkdir(parents=True)
    windows.write_bytes(library.read_bytes())
    _put(root, WSL)
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


# ---- without NVML: CUDA's driver library


def test_a_jetson_without_nvml_is_read_through_libcuda(cuda_library: Path, root: Path) -> None:
    _put(root, JETSON)
    machine = _observe(cuda_library, root, cuda_stub.answers(ORIN, version=11040))
    assert (machine.jetson, machine.cuda) == (True, (11, 4))
    assert [(g.name, g.uuid, g.memory_mib, g.compute_capability, g.visible) for g in machine.gpus] == [
        ("Orin", ORIN_UUID, 30697, (8, 7), True)
    ]
    assert machine.findings == ()


def test_a_container_with_libcuda_alone_is_told_how_to_get_nvml(cuda_library: Path, root: Path) -> None:
    _put(root, {**MODULE, **DOCKER})
    machine = _observe(cuda_library, root, cuda_stub.answers(ORIN, ORIN))
    assert [gpu.index for gpu in machine.visible_gpus] == [0, 1]
    assert (machine.driver, _kinds(machine)) == ("580.65.06", ["nvml-missing"])
    assert machine.findings[0].severity == "note"
    assert "compute,utility" in str(machine.findings[0].hint)


def test_an_old_libcuda_tells_the_uuid_too(tmp_path: Path, no_library: Path, root: Path, cc: str) -> None:
    no_library.with_name(cuda_stub.LIBRARY).unlink()
    cuda_stub.build(no_library.parent, cc=cc, old=True)
    machine = _observe(no_library, root, cuda_stub.answers(ORIN))
    assert machine.gpus[0].uuid == ORIN_UUID


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (34, "driver-stub-library", "stubs"),
        (802, "driver-not-ready", "fabricmanager"),
        (803, "driver-version-mismatch", "reboot"),
        (804, "driver-compat-library", "LD_LIBRARY_PATH"),
        (999, "driver-unknown-error", "nvidia_uvm"),
        (2, "driver-cuda-error", "nvidia-smi"),
    ],
)
def test_each_error_of_libcuda_is_a_finding_with_its_remedy(
    cuda_library: Path, root: Path, code: int, kind: str, remedy: str
) -> None:
    machine = _observe(cuda_library, root, cuda_stub.answers(init=code))
    assert (machine.cuda, _kinds(machine)) == ((12, 6), [kind])
    assert remedy in str(machine.findings[0].hint)
    assert machine.driver_fault is not None


@pytest.mark.parametrize(("files", "kinds"), [({}, []), (JETSON, ["gpu-not-listed"])])
def test_no_device_is_a_finding_where_there_must_be_one(
    cuda_library: Path, root: Path, files: dict[str, str], kinds: list[str]
) -> None:
    _put(root, files)
    assert _kinds(_observe(cuda_library, root, cuda_stub.answers(init=NO_DEVICE))) == kinds


def test_what_cuda_visible_devices_hides_from_libcuda_is_no_fault(cuda_library: Path, root: Path) -> None:
    _put(root, JETSON)
    machine = _observe(cuda_library, root, {**cuda_stub.answers(init=NO_DEVICE), "CUDA_VISIBLE_DEVICES": ""})
    assert _kinds(machine) == ["visible-devices-unread"]
    assert machine.driver_fault is None


def test_on_wsl2_libcuda_of_windows_is_found(cuda_library: Path, no_library: Path, root: Path) -> None:
    _put(root, WSL)
    windows = root / "usr/lib/wsl/lib" / cuda_stub.LIBRARY
    windows.parent.mkdir(parents=True)
    windows.write_bytes(cuda_library.read_bytes())
    machine = _observe(no_library, root, cuda_stub.answers(ORIN))
    assert [gpu.name for gpu in machine.gpus] == ["Orin"]


def test_a_machine_file_with_a_mistyped_field_names_the_nearest(library: Path, tmp_path: Path) -> None:
    told = tmp_path / "machine.json"
    told.write_text('{"os": "linux", "arch": "x86_64", "gpu": []}')
    command = [sys.executable, "-m", "mlenv", "detect", "--machine", str(told)]
    ran = subprocess.run(command, env=_environment(library, {}), capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert f"{told}: gpu is not a field of it; did you mean gpus?" in ran.stderr


@pytest.mark.parametrize("given", ["", "no-such.json", "/dev/zero", "."])
def test_a_machine_file_that_can_not_be_read_is_wrong_usage(given: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlenv", "detect", f"--machine={given}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "hint: name a file: `mlenv detect --json` on that machine prints one" in done.stderr


def test_what_libcuda_lists_is_visible_whatever_its_numbers(cuda_library: Path, root: Path) -> None:
    _put(root, JETSON)
    machine = _observe(cuda_library, root, {**cuda_stub.answers(ORIN), "CUDA_VISIBLE_DEVICES": "1"})
    assert [gpu.visible for gpu in machine.gpus] == [True]
    assert _kinds(machine) == ["visible-devices-unread"]


def test_a_fault_of_nvml_alone_is_a_note(both_libraries: Path, root: Path) -> None:
    machine = _observe(both_libraries, root, {**answers(init=999), **cuda_stub.answers(ORIN)})
    assert [gpu.name for gpu in machine.visible_gpus] == ["Orin"]
    assert [(found.kind, found.severity) for found in machine.findings] == [("driver-unknown-error", "note")]


def test_nvmls_fault_is_told_where_libcuda_fails_too(both_libraries: Path, root: Path) -> None:
    machine = _observe(both_libraries, root, {**answers(init=18), **cuda_stub.answers(init=803)})
    assert [(found.kind, found.severity) for found in machine.findings] == [("driver-version-mismatch", "warning")]


def test_libcuda_is_not_asked_where_nvml_answers(both_libraries: Path, root: Path) -> None:
    machine = _observe(both_libraries, root, {**answers(H100), **cuda_stub.answers(ORIN)})
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA H100"]


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_detect_printed_is_read_back_as_the_same_machine(library: Path, tmp_path: Path, encoding: str) -> None:
    gpus = (StubGpu(name="NVIDIA A100 ä 40GB", mig=("MIG-a",)), StubGpu(error=15), P40)
    _, here = _detect(library, tmp_path / "here", {**answers(*gpus), "CUDA_VISIBLE_DEVICES": "MIG-a"})
    told = tmp_path / "machine.json"
    told.write_bytes(json.dumps(here, ensure_ascii=False, indent=2).replace("\n", "\r\n").encode(encoding))
    _, elsewhere = _detect(library, tmp_path / "elsewhere", answers(init=9), "--machine", str(told))
    assert elsewhere["machine"] == here["machine"]
    assert elsewhere["backend"] == here["backend"] == "cu132"
