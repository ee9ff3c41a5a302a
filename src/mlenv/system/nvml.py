"""The driver and its GPUs as NVML tells them, through nvidia-ml-py. Each of its errors has a finding of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mlenv.report import Finding
from mlenv.system.reading import Device, Reading

NO_PERMISSION, INSUFFICIENT_POWER, DRIVER_NOT_LOADED, TIMEOUT, IRQ_ISSUE, LIBRARY_NOT_FOUND = 4, 8, 9, 10, 11, 12
FUNCTION_NOT_FOUND, CORRUPTED_INFOROM, GPU_IS_LOST, RESET_REQUIRED, OPERATING_SYSTEM = 13, 14, 15, 16, 17
VERSION_MISMATCH, MEMORY, NOT_READY, UNKNOWN = 18, 20, 27, 999

_T = TypeVar("_T")
_XIDS = "`sudo dmesg | grep -i -e nvrm -e xid` says more"

# NVML's answer → (the finding's kind, what is wrong, what to do). The kinds are what Machine.driver_fault looks for.
# Source of the meanings: nvml.h, nvmlReturn_t.
_REMEDIES: dict[int, tuple[str, str, str]] = {
    NO_PERMISSION: (
        "driver-no-permission",
        "this user may not use the NVIDIA driver",
        "`ls -l /dev/nvidia*` shows who may: usually the group video or render",
    ),
    INSUFFICIENT_POWER: (
        "gpu-power-missing",
        "the GPU's power cables are not connected",
        "switch off, connect them all and start again",
    ),
    DRIVER_NOT_LOADED: (
        "driver-not-loaded",
        "the NVIDIA driver is installed, but its kernel module is not loaded",
        "load it with `sudo modprobe nvidia`; if that fails, install the driver again: the kernel is newer than it, or "
        "Secure Boot refuses its signature",
    ),
    TIMEOUT: (
        "driver-timeout",
        "the NVIDIA driver doesn't answer in time",
        f"try again; where it stays so, reboot ({_XIDS})",
    ),
    IRQ_ISSUE: (
        "driver-interrupts",
        "the kernel has a problem with the GPU's interrupts",
        f"{_XIDS}; an update of the firmware (BIOS) or of the kernel helps",
    ),
    LIBRARY_NOT_FOUND: (
        "driver-library-incomplete",
        "NVML is there, but a library that it needs is not",
        "install the driver again, all of its packages at one version (in a container: restart it)",
    ),
    FUNCTION_NOT_FOUND: (
        "driver-too-old",
        "the NVIDIA driver is too old to be asked what it supports",
        "install driver 525 or newer",
    ),
    CORRUPTED_INFOROM: (
        "gpu-inforom-corrupted",
        "the GPU's infoROM is damaged",
        "`nvidia-smi -q` shows it; the GPU's maker replaces or reprograms it",
    ),
    GPU_IS_LOST: (
        "gpu-lost",
        "the GPU has fallen off the bus",
        "reboot; if it comes back, look at its power and seating",
    ),
    RESET_REQUIRED: ("gpu-reset-required", "the GPU needs a reset", "`sudo nvidia-smi --gpu-reset`, or reboot"),
    OPERATING_SYSTEM: (
        "driver-blocked",
        "the operating system keeps this process from the NVIDIA driver (cgroup, SELinux, AppArmor)",
        "in a container, start it again with its GPUs (`systemctl daemon-reload` on the host takes them away)",
    ),
    VERSION_MISMATCH: (
        "driver-version-mismatch",
        "the NVIDIA driver was upgraded while its old kernel module stayed loaded",
        "reboot (inside a container: restart it after the host's reboot)",
    ),
    MEMORY: ("driver-out-of-memory", "the NVIDIA driver has no memory left", "end other processes, then try again"),
    NOT_READY: (
        "driver-not-ready",
        "the NVIDIA driver is not ready yet",
        "try again in a moment; where it stays so, reboot",
    ),
    UNKNOWN: (
        "driver-unknown-error",
        "the NVIDIA driver answers with an unknown error",
        f"{_XIDS}; after a suspend or a crash of the GPU a reboot helps",
    ),
}


def read(library: Path | None) -> Reading | None:
    """What NVML tells, or None where there is no NVML.

    ``library`` is where it is on WSL2, should the loader not find it by itself.
    """
    if library is None and not _is_there():
        return None
    import pynvml  # type: ignore[import-untyped]

    try:
        _start(pynvml, library)
    except pynvml.NVMLError as error:
        # nvmlInit answers LIBRARY_NOT_FOUND, too, where NVML itself was found.
        missing = error.value == LIBRARY_NOT_FOUND and pynvml.nvmlLib is None
        return None if missing else Reading(findings=(_finding(error),))
    try:
        return _read(pynvml)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _is_there() -> bool:
    """Whether the loader finds NVML: most machines without a GPU need not import what asks it, which takes 6 ms."""
    import ctypes

    if sys.platform == "win32":
        return True  # nvidia-ml-py knows where the driver puts it
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _start(nvml: Any, library: Path | None) -> None:
    """nvmlInit; on WSL2 with the library of Windows' driver where the loader doesn't find it by itself."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if library is None or error.value != LIBRARY_NOT_FOUND:
            raise
        import ctypes

        with suppress(OSError):
            ctypes.CDLL(str(library))  # once loaded, it answers to its plain name
        nvml.nvmlInit()


def _read(nvml: Any) -> Reading:
    findings: list[Finding] = []
    driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = None
    try:
        # v1 answers with the CUDA that NVML was built for, not with what the driver supports.
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
        cuda = (number // 1000, number % 1000 // 10)
    except nvml.NVMLError as error:
        findings += _no_cuda_version(error)
    devices: list[Device] = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Reading(driver=driver, cuda=cuda, findings=(*findings, _finding(error)))
    for index in range(count):
        try:
            device = _device(nvml, index)
        except nvml.NVMLError as error:
            findings.append(_finding(error, gpu=index))
        else:
            devices.append(device)
            findings += [] if device.usable else [_no_instances(index)]
    return Reading(driver=driver, cuda=cuda, devices=tuple(devices), findings=tuple(findings))


def _no_cuda_version(error: Any) -> list[Finding]:
    """NVML asks libcuda for that number; a container without the ``compute`` capability has none.

    A driver too old for v2 is judged by its own number.
    """
    if error.value == FUNCTION_NOT_FOUND:
        return []
    if error.value != LIBRARY_NOT_FOUND:
        return [_finding(error)]
    message = "NVML is there and libcuda is not: CUDA programs will find no GPU"
    hint = "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's CUDA part"
    return [Finding(kind="driver-cuda-missing", message=message, hint=hint, severity="warning")]


def _device(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)  # GPUs that share the host's memory have none to tell
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    instances = _mig_uuids(nvml, handle)
    return Device(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        uuids=(nvml.nvmlDeviceGetUUID(handle), *(instances or ())),
        memory_mib=None if memory is None else memory.total // 2**20,
        compute_capability=(major, minor),
        usable=instances != (),
    )


def _mig_uuids(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    """The UUIDs of the GPU's MIG instances, or None without MIG: most GPUs don't know it, and that is no finding."""
    mode = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        return None
    found = []
    for place in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)  # empty places answer NotFound
        uuid = None if instance is None else _ask(nvml, nvml.nvmlDeviceGetUUID, instance)
        if uuid:
            found.append(uuid)
    return tuple(found)


def _no_instances(index: int) -> Finding:
    message = f"GPU {index} has MIG switched on and no instance to use: CUDA programs don't see it"
    hint = f"`sudo nvidia-smi mig -i {index} -cgi 0 -C` makes one of the whole GPU; "
    hint += f"`sudo nvidia-smi -i {index} -mig 0` switches MIG off"
    return Finding(kind="gpu-mig-empty", message=message, hint=hint, severity="warning")


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
        kind = kind if kind.startswith("gpu-") else "gpu-unreadable"
        message = f"GPU {gpu} can't be read: {message}"
    return Finding(kind=kind, message=message, hint=hint, severity="warning")
