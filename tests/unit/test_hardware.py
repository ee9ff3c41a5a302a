from __future__ import annotations

from pathlib import Path

import pytest

from mlenv.system.hardware import Hardware, is_container, is_jetson, is_wsl, look

NVRM = """NVRM version: NVIDIA UNIX {kind}  580.65.06  {build}
GCC version:  gcc version 13.2.0 (Ubuntu 13.2.0-23ubuntu4)
"""
INFORMATION = """Model: \t\t {model}
IRQ:   \t\t 171
GPU UUID: \t GPU-5a1d3e1c-0000-0000-0000-000000000000
"""


def _write(root: Path, path: str, text: str = "") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("release", "bridge", "expected"),
    [
        ("6.6.87.2-microsoft-standard-WSL2\n", True, True),
        ("6.6.87.2-microsoft-standard-WSL2\n", False, False),
        ("6.8.0-45-generic\n", True, False),
        ("6.8.0-45-generic\n", False, False),
    ],
)
def test_wsl2_needs_the_kernel_and_the_bridge(tmp_path: Path, release: str, bridge: bool, expected: bool) -> None:
    _write(tmp_path, "proc/sys/kernel/osrelease", release)
    if bridge:
        _write(tmp_path, "dev/dxg")
    assert is_wsl(tmp_path) is expected


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("proc/1/cgroup", "12:memory:/kubepods/besteffort/pod1\n"),
        ("proc/1/cgroup", "0::/docker/0123456789ab\n"),
    ],
)
def test_a_container_is_known_by_its_files(tmp_path: Path, path: str, text: str) -> None:
    _write(tmp_path, path, text)
    assert is_container(tmp_path, {})


def test_kubernetes_is_known_by_its_variable(tmp_path: Path) -> None:
    assert is_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


def test_a_machine_of_its_own_is_no_container(tmp_path: Path) -> None:
    _write(tmp_path, "proc/1/cgroup", "0::/init.scope\n")
    assert not is_container(tmp_path, {})


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n"),
        ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0"),
        ("proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit\0"),
        ("proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0"),
        ("sys/devices/soc0/family", "Tegra\n"),
    ],
)
def test_a_jetson_is_known_by_each_of_its_files(tmp_path: Path, path: str, text: str) -> None:
    assert not is_jetson(tmp_path)
    _write(tmp_path, path, text)
    assert is_jetson(tmp_path)
    assert look(tmp_path, {}).present


def test_another_board_is_no_jetson(tmp_path: Path) -> None:
    _write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    _write(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert look(tmp_path, {}) == Hardware()


@pytest.mark.parametrize(
    ("vendor", "kind", "expected"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),
        ("0x1002", "0x030000", False),
    ],
)
def test_hardware_is_an_nvidia_display_device(tmp_path: Path, vendor: str, kind: str, expected: bool) -> None:
    _write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/vendor", f"{vendor}\n")
    _write(tmp_path, "sys/bus/pci/devices/0000:01:00.0/class", f"{kind}\n")
    there = look(tmp_path, {})
    assert (there.on_bus, there.present) == (expected, expected)


@pytest.mark.parametrize(
    "path", ["proc/driver/nvidia/version", "sys/module/nvidia/version", "usr/lib/wsl/lib/libnvidia-ml.so.1"]
)
def test_hardware_is_known_by_the_drivers_own_files(tmp_path: Path, path: str) -> None:
    assert not look(tmp_path, {}).present
    _write(tmp_path, path)
    assert look(tmp_path, {}).present


@pytest.mark.parametrize(
    "text",
    [
        NVRM.format(kind="x86_64 Kernel Module", build="Sun Jul 27 07:16:32 UTC 2026"),
        NVRM.format(kind="Open Kernel Module for aarch64", build="Release Build  (dvs-builder@U22-I3)"),
    ],
)
def test_the_kernel_module_tells_its_number(tmp_path: Path, text: str) -> None:
    _write(tmp_path, "proc/driver/nvidia/version", text)
    assert look(tmp_path, {}).driver == "580.65.06"


def test_without_proc_the_module_tells_its_number_in_sys(tmp_path: Path) -> None:
    _write(tmp_path, "sys/module/nvidia/version", "535.183.01\n")
    assert look(tmp_path, {}).driver == "535.183.01"


def test_the_kernel_module_names_its_gpus(tmp_path: Path) -> None:
    _write(tmp_path, "proc/driver/nvidia/gpus/0000:0b:00.0/information", INFORMATION.format(model="Tesla T4"))
    _write(tmp_path, "proc/driver/nvidia/gpus/0000:0a:00.0/information", INFORMATION.format(model="NVIDIA H100 PCIe"))
    there = look(tmp_path, {})
    assert there.models == ("NVIDIA H100 PCIe", "Tesla T4")
    assert there.gpu == "an NVIDIA GPU (NVIDIA H100 PCIe, Tesla T4)"


def test_nouveau_is_seen(tmp_path: Path) -> None:
    _write(tmp_path, "sys/module/nouveau/refcnt", "1\n")
    assert look(tmp_path, {}).nouveau
