from __future__ import annotations

from pathlib import Path

import pytest

from mlenv.errors import NoBackendError
from mlenv.system.probe import WSL_LIBRARY, has_nvidia_hardware, is_container, is_wsl, system_names


def _write(root: Path, path: str, text: str = "") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", ("linux", "x86_64")),
        ("linux", "aarch64", ("linux", "aarch64")),
        ("linux", "arm64", ("linux", "aarch64")),
        ("win32", "AMD64", ("windows", "x86_64")),
        ("darwin", "arm64", ("macos", "arm64")),
        ("darwin", "x86_64", ("macos", "x86_64")),
    ],
)
def test_platforms_have_the_settings_names(system: str, machine: str, expected: tuple[str, str]) -> None:
    assert system_names(system, machine) == expected


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("freebsd14", "amd64")])
def test_a_platform_without_builds_is_refused(system: str, machine: str) -> None:
    with pytest.raises(NoBackendError, match=machine):
        system_names(system, machine)


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
    assert has_nvidia_hardware(tmp_path) is expected


@pytest.mark.parametrize("path", ["proc/driver/nvidia/version", WSL_LIBRARY])
def test_hardware_is_known_by_the_drivers_own_files(tmp_path: Path, path: str) -> None:
    assert not has_nvidia_hardware(tmp_path)
    _write(tmp_path, path)
    assert has_nvidia_hardware(tmp_path)
