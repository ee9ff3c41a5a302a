"""The driver and its GPUs as CUDA's driver library tells them (libcuda.so.1, nvcuda.dll): where there is no NVML.

Nothing here makes a CUDA context. The library applies CUDA_VISIBLE_DEVICES itself: what is hidden is not listed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlenv.report import Finding
from mlenv.system.reading import Device, Reading

NO_DEVICE = 100
_STUB, _NOT_FOUND, _NOT_READY, _MISMATCH, _NO_COMPAT, _UNKNOWN = 34, 500, 802, 803, 804, 999
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

# CUresult → (the finding's kind, what is wrong, what to do). Source: cuda.h, and the driver API's manual.
_REMEDIES: dict[int, tuple[str, str, str]] = {
    _STUB: (
        "driver-stub-library",
        "the libcuda.so.1 that is found is the CUDA toolkit's stub, not the driver's library",
        "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH",
    ),
    _NOT_FOUND: (
        "driver-too-old",
        "the NVIDIA driver is too old to be asked what it supports",
        "install driver 525 or newer",
    ),
    _NOT_READY: (
        "driver-not-ready",
        "the NVIDIA driver waits for a service",
        "on a machine with NVSwitch: `sudo systemctl start nvidia-fabricmanager`",
    ),
    _MISMATCH: (
        "driver-version-mismatch",
        "the NVIDIA driver was upgraded while its old kernel module stayed loaded",
        "reboot (inside a container: restart it after the host's reboot)",
    ),
    _NO_COMPAT: (
        "driver-compat-library",
        "the libcuda.so.1 that is found is of a cuda-compat package, which this GPU can't use",
        "remove the package, or take its folder out of LD_LIBRARY_PATH",
    ),
    _UNKNOWN: (
        "driver-unknown-error",
        "CUDA's driver library answers with an unknown error",
        "`sudo modprobe nvidia_uvm`; after a suspend or a crash of the GPU a reboot helps",
    ),
}


class _Refused(Exception):
    """The library's answer where it isn't success."""

    def __init__(self, code: int):
        self.code = code


def read(library: Path | None) -> Reading | None:
    """What CUDA's driver library tells, or None where there is none.

    ``library`` is where it is on WSL2, should the loader not find it by itself. No device at all is no finding here.
    """
    cuda = _load(library)
    if cuda is None:
        return None
    version = None
    try:
        number = _integer(cuda, "cuDriverGetVersion")
        version = (number // 1000, number % 1000 // 10)
        _call(cuda, "cuInit", 0)
        count = _integer(cuda, "cuDeviceGetCount")
        devices = tuple(_device(cuda, index) for index in range(count))
    except _Refused as error:
        findings = () if error.code == NO_DEVICE else (_finding(error.code),)
        return Reading(cuda=version, findings=findings, filtered=True)
    return Reading(cuda=version, devices=devices, filtered=True)


def _load(library: Path | None) -> ctypes.CDLL | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    for candidate in (name, *_texts(library)):
        with suppress(OSError):
            return ctypes.CDLL(candidate)
    return None


def _texts(library: Path | None) -> Iterable[str]:
    return () if library is None else (str(library),)


def _device(cuda: ctypes.CDLL, index: int) -> Device:
    device = _integer(cuda, "cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    memory = ctypes.c_size_t()
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (_integer(cuda, "cuDeviceGetAttribute", number, device) for number in (_MAJOR, _MINOR))
    return Device(
        index=index,
        name=name.value.decode(errors="replace"),
        uuids=(_uuid(cuda, device),),
        memory_mib=memory.value // 2**20,
        compute_capability=(major, minor),
    )


def _uuid(cuda: ctypes.CDLL, device: int) -> str:
    """As NVML writes it. Drivers before 11.4 have no second version, which knows MIG instances."""
    import uuid

    raw = ctypes.create_string_buffer(16)
    try:
        _call(cuda, "cuDeviceGetUuid_v2", raw, device)
    except _Refused as error:
        if error.code != _NOT_FOUND:
            raise
        _call(cuda, "cuDeviceGetUuid", raw, device)
    return f"GPU-{uuid.UUID(bytes=raw.raw)}"


def _integer(cuda: ctypes.CDLL, name: str, *words: int) -> int:
    """The number that a function writes to its first argument."""
    number = ctypes.c_int()
    _call(cuda, name, ctypes.byref(number), *words)
    return number.value


def _call(cuda: ctypes.CDLL, name: str, *words: object) -> None:
    try:
        function = getattr(cuda, name)
    except AttributeError:
        raise _Refused(_NOT_FOUND) from None
    code = function(*words)
    if code != 0:
        raise _Refused(code)


def _finding(code: int) -> Finding:
    generic = ("driver-cuda-error", f"CUDA's driver library answers with error {code}", "run `nvidia-smi`")
    kind, message, hint = _REMEDIES.get(code, generic)
    return Finding(kind=kind, message=message, hint=hint, severity="warning")
