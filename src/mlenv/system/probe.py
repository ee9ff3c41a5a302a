"""What this machine is: operating system, container, WSL2, driver and GPUs (through NVML)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlenv.errors import NoBackendError
from mlenv.machine import Architecture, Gpu, Machine, OperatingSystem, Visible, visible_devices
from mlenv.report import Finding

WSL_LIBRARY = "usr/lib/wsl/lib/libnvidia-ml.so.1"
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 3, 4, 9, 12
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, VERSION_MISMATCH, UNKNOWN = 13, 15, 16, 18, 999

_SYSTEMS: dict[str, OperatingSystem] = {"linux": "linux", "win32": "windows", "cygwin": "windows", "darwin": "macos"}
_ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
_CONTAINER = re.compile(r"docker|kubepods|containerd|libpod|lxc")
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"
_T = TypeVar("_T")

# NVML's answer → (the finding's kind, what is wrong, what to do). The kinds are what Machine.driver_fault looks for.
_REMEDIES: dict[int, tuple[str, str, str]] = {
    DRIVER_NOT_LOADED: (
        "driver-not-loaded",
        "the NVIDIA driver is installed, but its kernel module is not loaded",
        "load it with `sudo modprobe nvidia`; if that fails, install the driver again: the kernel is newer than it",
    ),
    VERSION_MISMATCH: (
        "driver-version-mismatch",
        "the NVIDIA driver was upgraded while its old kernel module stayed loaded",
        "reboot (inside a container: restart it after the host's reboot)",
    ),
    NO_PERMISSION: (
        "driver-no-permission",
        "this user may not use the NVIDIA driver",
        "`ls -l /dev/nvidia*` shows who may: usually the group video or render",
    ),
    UNKNOWN: (
        "driver-unknown-error",
        "the NVIDIA driver answers with an unknown error",
        "look into `dmesg | grep -i nvrm`; after a suspend or a crash of the GPU a reboot helps",
    ),
    FUNCTION_NOT_FOUND: (
        "driver-too-old",
        "the NVIDIA driver is too old to be asked what it supports",
        "install driver 525 or newer",
    ),
    GPU_IS_LOST: (
        "gpu-lost",
        "the GPU has fallen off the bus",
        "reboot; if it comes back, look at its power and seating",
    ),
    RESET_REQUIRED: ("gpu-reset-required", "the GPU needs a reset", "`sudo nvidia-smi --gpu-reset`, or reboot"),
}
_MISSING_HOST = (
    "driver-library-missing",
    "an NVIDIA GPU is there, but the driver's library (libnvidia-ml.so.1) is not",
    "install the NVIDIA driver, then `nvidia-smi` must work",
)
_MISSING_CONTAINER = (
    "driver-library-missing",
    "an NVIDIA GPU is there, but this container was started without it (no libnvidia-ml.so.1)",
    "start the container with `--gpus all` (NVIDIA Container Toolkit)",
)


@dataclass(frozen=True, kw_only=True)
class _Device:
    """One GPU as NVML tells it. ``uuids`` is its own, then those of its MIG instances."""

    index: int
    name: str
    uuids: tuple[str, ...]
    memory_mib: int | None
    compute_capability: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What NVML told."""

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    devices: tuple[_Device, ...] = ()
    findings: tuple[Finding, ...] = ()


def observe(environ: Mapping[str, str], *, root: Path = Path("/")) -> Machine:
    """The machine that runs this, as CUDA programs started with ``environ`` see it. ``root`` is where its files are.

    Every fault of the driver becomes a finding. Raises NoBackendError on a system or processor no build exists for.
    """
    import platform
    import sys

    system, arch = system_names(sys.platform, platform.machine())
    wsl = system == "linux" and is_wsl(root)
    container = system == "linux" and is_container(root, environ)
    reading = _Reading() if system == "macos" else _read_nvml(root, wsl=wsl, container=container)
    setting = environ.get("CUDA_VISIBLE_DEVICES")
    visible = visible_devices(setting, [device.uuids for device in reading.devices])
    return Machine(
        os=system,
        arch=arch,
        wsl=wsl,
        container=container,
        driver=reading.driver,
        cuda=reading.cuda,
        gpus=tuple(_gpu(device, place in visible.indices) for place, device in enumerate(reading.devices)),
        findings=reading.findings + _visibility_findings(setting, visible, reading, environ),
    )


def system_names(system: str, machine: str) -> tuple[OperatingSystem, Architecture]:
    """mlenv's words for ``sys.platform`` and ``platform.machine()``. Raises NoBackendError where there are none."""
    name = _SYSTEMS.get(system)
    arch = _ARCHITECTURES.get(machine.lower())
    if name is None or arch is None:
        raise NoBackendError(
            f"no build exists for {system} on {machine}",
            hint="mlenv knows Linux (x86_64, aarch64), Windows and macOS",
        )
    return name, "arm64" if name == "macos" and arch == "aarch64" else arch


def is_wsl(root: Path) -> bool:
    """Whether this is WSL2 with a GPU bridge. The kernel's name alone is Microsoft's in a container on WSL2 too."""
    release = _text(root / "proc/sys/kernel/osrelease").lower()
    return "microsoft" in release and (root / "dev/dxg").exists()


def is_container(root: Path, environ: Mapping[str, str]) -> bool:
    """Whether this runs in a container: Docker, Podman, containerd, LXC, Kubernetes."""
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    return marked or "KUBERNETES_SERVICE_HOST" in environ or bool(_CONTAINER.search(_text(root / "proc/1/cgroup")))


def has_nvidia_hardware(root: Path) -> bool:
    """Whether a kernel module, a PCI display device or WSL2's library says that an NVIDIA GPU is there."""
    if (root / "proc/driver/nvidia").exists() or (root / WSL_LIBRARY).exists():
        return True
    devices = root / "sys/bus/pci/devices"
    return any(
        _text(device / "vendor").strip() == _NVIDIA_VENDOR and _text(device / "class").startswith(_DISPLAY_CLASS)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _read_nvml(root: Path, *, wsl: bool, container: bool) -> _Reading:
    import pynvml  # type: ignore[import-untyped]

    try:
        _start(pynvml, root, wsl=wsl)
    except pynvml.NVMLError as error:
        return _Reading(findings=_start_findings(error, root, container=container))
    try:
        return _read_driver(pynvml)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _start(nvml: Any, root: Path, *, wsl: bool) -> None:
    """nvmlInit; on WSL2 with the library of Windows' driver where the loader doesn't find it by itself."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if not wsl or error.value != LIBRARY_NOT_FOUND:
            raise
        import ctypes

        with suppress(OSError):
            ctypes.CDLL(str(root / WSL_LIBRARY))  # once loaded, it answers to its plain name
        nvml.nvmlInit()


def _start_findings(error: Any, root: Path, *, container: bool) -> tuple[Finding, ...]:
    if error.value != LIBRARY_NOT_FOUND:
        return (_finding(error),)
    if not has_nvidia_hardware(root):
        return ()
    kind, message, hint = _MISSING_CONTAINER if container else _MISSING_HOST
    return (Finding(kind=kind, message=message, hint=hint, severity="warning"),)


def _read_driver(nvml: Any) -> _Reading:
    findings: list[Finding] = []
    driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = None
    try:
        # v1 answers with the CUDA that NVML was built for, not with what the driver supports.
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
        cuda = (number // 1000, number % 1000 // 10)
    except nvml.NVMLError as error:
        findings += _no_cuda_version(error)
    devices: list[_Device] = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return _Reading(driver=driver, cuda=cuda, findings=(*findings, _finding(error)))
    for index in range(count):
        try:
            devices.append(_device(nvml, index))
        except nvml.NVMLError as error:
            findings.append(_finding(error, gpu=index))
    return _Reading(driver=driver, cuda=cuda, devices=tuple(devices), findings=tuple(findings))


def _no_cuda_version(error: Any) -> list[Finding]:
    """NVML asks libcuda for that number; a container without the ``compute`` capability has none."""
    if error.value != LIBRARY_NOT_FOUND:
        return []
    message = "NVML is there and libcuda is not: CUDA programs will find no GPU"
    hint = "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's CUDA part"
    return [Finding(kind="cuda-library-missing", message=message, hint=hint, severity="warning")]


def _device(nvml: Any, index: int) -> _Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)  # GPUs that share the host's memory have none to tell
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return _Device(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        uuids=(nvml.nvmlDeviceGetUUID(handle), *_mig_uuids(nvml, handle)),
        memory_mib=None if memory is None else memory.total // 2**20,
        compute_capability=(major, minor),
    )


def _mig_uuids(nvml: Any, handle: Any) -> tuple[str, ...]:
    """The UUIDs of the GPU's MIG instances; most GPUs don't know MIG, and that is no finding."""
    mode = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        return ()
    found = []
    for place in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)  # empty places answer NotFound
        uuid = None if instance is None else _ask(nvml, nvml.nvmlDeviceGetUUID, instance)
        if uuid:
            found.append(uuid)
    return tuple(found)


def _ask(nvml: Any, function: Callable[..., _T], *words: Any) -> _T | None:
    """The answer, or None where NVML has none: for what a machine may well not know."""
    try:
        return function(*words)
    except nvml.NVMLError:
        return None


def _finding(error: Any, *, gpu: int | None = None) -> Finding:
    """What NVML's error means and what helps; one GPU's error names the GPU."""
    generic = ("driver-error", f"the NVIDIA driver answers: {error} (NVML error {error.value})", "run `nvidia-smi`")
    kind, message, hint = _REMEDIES.get(error.value, generic)
    if gpu is not None:
        kind, message = "gpu-unreadable", f"GPU {gpu} can't be read: {message}"
    return Finding(kind=kind, message=message, hint=hint, severity="warning")


def _visibility_findings(
    setting: str | None, visible: Visible, reading: _Reading, environ: Mapping[str, str]
) -> tuple[Finding, ...]:
    if setting is None or not reading.devices:
        return ()
    if visible.stopped_at is not None:
        message = f"CUDA_VISIBLE_DEVICES={setting}: {visible.stopped_at!r} names no GPU that is left; CUDA stops there"
        return (
            Finding(
                kind="visible-devices-invalid", message=message, hint="`nvidia-smi -L` lists them", severity="warning"
            ),
        )
    mixed = len({device.compute_capability for device in reading.devices}) > 1
    by_bus = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    partial = 0 < len(visible.indices) < len(reading.devices)
    if mixed and partial and not by_bus and setting.strip()[:1].isdigit():
        message = (
            "CUDA_VISIBLE_DEVICES counts the fastest GPU first, and mlenv counts along the PCI bus; these GPUs differ"
        )
        hint = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID"
        return (Finding(kind="visible-devices-order", message=message, hint=hint, severity="note"),)
    return ()


def _gpu(device: _Device, visible: bool) -> Gpu:  # noqa: FBT001
    return Gpu(
        index=device.index,
        name=device.name,
        uuid=device.uuids[0],
        memory_mib=device.memory_mib,
        compute_capability=device.compute_capability,
        visible=visible,
        mig=device.uuids[1:],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
