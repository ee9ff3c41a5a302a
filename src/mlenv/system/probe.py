"""What this machine is: operating system, container, WSL2, Jetson, driver and GPUs.

NVML is asked first, CUDA's driver library where NVML can't say; files tell what neither can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlenv.errors import NoBackendError
from mlenv.machine import Architecture, Gpu, Machine, OperatingSystem, Visible, visible_devices
from mlenv.report import Finding
from mlenv.system import hardware
from mlenv.system.hardware import Hardware
from mlenv.system.reading import Device, Reading

_SYSTEMS: dict[str, OperatingSystem] = {"linux": "linux", "win32": "windows", "cygwin": "windows", "darwin": "macos"}
_ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
_WITHHELD = ("none", "void")  # NVIDIA_VISIBLE_DEVICES: a container that is to have no GPU (NVIDIA Container Toolkit)


def observe(environ: Mapping[str, str], *, root: Path = Path("/")) -> Machine:
    """The machine that runs this, as CUDA programs started with ``environ`` see it. ``root`` is where its files are.

    Every fault of the driver becomes a finding. Raises NoBackendError on a system or processor no build exists for.
    """
    import sys

    system, arch = system_names(sys.platform, _processor())
    there = hardware.look(root, environ) if system == "linux" else Hardware()
    reading = Reading() if system == "macos" else _read(there, root, environ)
    setting = environ.get("CUDA_VISIBLE_DEVICES")
    applied = None if reading.filtered else setting
    visible = visible_devices(applied, [device.uuids for device in reading.devices])
    return Machine(
        os=system,
        arch=arch,
        wsl=there.wsl,
        container=there.container,
        jetson=there.jetson,
        driver=reading.driver,
        cuda=reading.cuda,
        gpus=tuple(
            _gpu(device, visible=device.usable and place in visible.indices)
            for place, device in enumerate(reading.devices)
        ),
        findings=reading.findings + _visibility_findings(applied, visible, reading, environ),
    )


def _processor() -> str:
    if hasattr(os, "uname"):
        return os.uname().machine
    import platform

    return platform.machine()


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


def _read(there: Hardware, root: Path, environ: Mapping[str, str]) -> Reading:
    """What NVML tells; where it lists no GPU and one may be there, what CUDA's driver library tells."""
    from mlenv.system import libcuda, nvml

    wsl = root / hardware.WSL_FOLDER if there.wsl else None
    told = nvml.read(wsl and wsl / "libnvidia-ml.so.1")
    if told is not None and (told.devices or not (told.findings or there.present)):
        return told
    cuda = libcuda.read(wsl and wsl / "libcuda.so.1")
    driver = (told.driver if told else None) or there.driver
    if cuda is not None and cuda.devices:
        return replace(cuda, driver=driver, findings=_through_cuda(told, there, environ))
    version = (told.cuda if told else None) or (cuda.cuda if cuda else None)
    return Reading(driver=driver, cuda=version, findings=_why_none(told, cuda, there, environ))


def _through_cuda(told: Reading | None, there: Hardware, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """What to say where CUDA lists GPUs and NVML doesn't: they can be used, so NVML's faults are notes."""
    notes = [replace(found, severity="note") for found in (told.findings if told else ())]
    if told is None and not there.jetson:  # a Jetson before JetPack 6 has no NVML
        message = "NVML is not there; the GPUs were read through CUDA's driver library"
        hint = "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        notes.append(Finding(kind="nvml-missing", message=message, hint=hint, severity="note"))
    return (*notes, *_unread(environ))


def _unread(environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """What CUDA's driver library can't know."""
    setting = environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return ()
    message = f"CUDA_VISIBLE_DEVICES={setting}: without NVML, the GPUs that it hides can't be listed"
    return (Finding(kind="visible-devices-unread", message=message, hint="unset it to see them", severity="note"),)


def _why_none(
    told: Reading | None, cuda: Reading | None, there: Hardware, environ: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Why no GPU can be read: what NVML said, else CUDA, else what the files say."""
    if told is not None and told.findings:
        return told.findings
    if cuda is not None and cuda.findings:
        return cuda.findings
    if not there.present:
        return ()
    if told is None and cuda is not None and "CUDA_VISIBLE_DEVICES" in environ:
        return _unread(environ)
    withheld = environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if there.container and withheld in _WITHHELD:
        message = f"this container is to have no GPU: NVIDIA_VISIBLE_DEVICES={withheld}"
        hint = "start it with NVIDIA_VISIBLE_DEVICES=all to give it all"
        return (Finding(kind="container-without-gpu", message=message, hint=hint, severity="note"),)
    libraries = told is not None or cuda is not None
    kind, message, hint = _not_listed(there) if libraries else _no_library(there)
    return (Finding(kind=kind, message=message, hint=hint, severity="warning"),) if kind else ()


def _not_listed(there: Hardware) -> tuple[str, str, str]:
    """The driver's libraries are there and list no GPU; a loaded module alone is no GPU."""
    if not (there.on_bus or there.models or there.jetson):
        return "", "", ""
    if there.container:
        return _not_given(there)
    return (
        "gpu-not-listed",
        f"{there.gpu} is there, but the driver lists none",
        "`sudo dmesg | grep -i nvrm` says why: the driver may be too new or too old for it, or the open kernel module "
        "may not know it (they begin with Turing)",
    )


def _no_library(there: Hardware) -> tuple[str, str, str]:
    """A GPU or its kernel module is there, and neither NVML nor libcuda: what is missing, and what brings it."""
    kind = "driver-library-missing"
    if there.container:
        return _not_given(there)
    if there.wsl:
        message = "the library of Windows' NVIDIA driver (/usr/lib/wsl/lib) can't be loaded"
        return kind, message, "update the driver in Windows, then `wsl --update` and `wsl --shutdown`"
    if there.jetson:
        return kind, "this Jetson has no CUDA driver library (libcuda.so.1)", "`sudo apt install nvidia-jetpack`"
    if there.module:
        driver = f"NVIDIA driver {there.driver}" if there.driver else "NVIDIA driver"
        message = f"{there.gpu} is there and the kernel has the {driver}, but its library (libnvidia-ml.so.1) is not"
        return kind, message, "install the NVIDIA driver's libraries of the same version, then `nvidia-smi` must work"
    if there.nouveau:
        message = f"{there.gpu} is there, but it runs on nouveau, which knows no CUDA"
        return "driver-nouveau", message, "install the NVIDIA driver (it disables nouveau) and reboot"
    message = f"{there.gpu} is there, but the NVIDIA driver is not installed"
    return "driver-missing", message, "install the NVIDIA driver, then `nvidia-smi` must work"


def _not_given(there: Hardware) -> tuple[str, str, str]:
    return (
        "gpu-not-in-container",
        f"{there.gpu} is there, but this container was started without it",
        "start the container with `--gpus all` (Jetson: `--runtime nvidia`; Podman: `--device nvidia.com/gpu=all`; "
        "Kubernetes: ask for `nvidia.com/gpu`)",
    )


def _visibility_findings(
    setting: str | None, visible: Visible, reading: Reading, environ: Mapping[str, str]
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


def _gpu(device: Device, *, visible: bool) -> Gpu:
    return Gpu(
        index=device.index,
        name=device.name,
        uuid=device.uuids[0],
        memory_mib=device.memory_mib,
        compute_capability=device.compute_capability,
        visible=visible,
        mig=device.uuids[1:],
    )
