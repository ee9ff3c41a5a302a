"""What the files of a machine tell of its GPUs and their driver, without asking the driver: /proc, /sys, /etc, /dev."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlenv.values import dataclass

WSL_FOLDER = "usr/lib/wsl/lib"

_CONTAINER = r"docker|kubepods|containerd|libpod|lxc"
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"
_MODEL = r"(?m)^Model:\s*(.+?)\s*$"
# "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ..."
_NVRM = r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Which NVIDIA hardware and which kernel modules are there.

    ``driver`` is the number of the loaded kernel module, ``models`` the names that it has for its GPUs; ``on_bus`` says
    that a display device of NVIDIA is on the PCI bus.
    """

    wsl: bool = False
    container: bool = False
    jetson: bool = False
    on_bus: bool = False
    module: bool = False
    nouveau: bool = False
    wsl_library: bool = False
    driver: str | None = None
    models: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether an NVIDIA GPU is there, or its driver."""
        return self.on_bus or self.module or self.jetson or self.wsl_library or bool(self.models)

    @property
    def gpu(self) -> str:
        """The GPUs in words: ``an NVIDIA GPU``, with its name where a file tells it."""
        return "an NVIDIA GPU" + (f" ({', '.join(sorted(set(self.models)))})" if self.models else "")


def look(root: Path, environ: Mapping[str, str]) -> Hardware:
    """The hardware of a Linux machine whose files are below ``root``."""
    return Hardware(
        wsl=is_wsl(root),
        container=is_container(root, environ),
        jetson=is_jetson(root),
        on_bus=_on_bus(root),
        module=(root / "proc/driver/nvidia").exists() or (root / "sys/module/nvidia").exists(),
        nouveau=(root / "sys/module/nouveau").exists(),
        wsl_library=(root / WSL_FOLDER / "libnvidia-ml.so.1").exists(),
        driver=_module_version(root),
        models=_models(root),
    )


def is_wsl(root: Path) -> bool:
    """Whether this is WSL2 with a GPU bridge. The kernel's name alone is Microsoft's in a container on WSL2 too."""
    release = _text(root / "proc/sys/kernel/osrelease").lower()
    return "microsoft" in release and (root / "dev/dxg").exists()


def is_container(root: Path, environ: Mapping[str, str]) -> bool:
    """Whether this runs in a container: Docker, Podman, containerd, LXC, Kubernetes."""
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    return marked or "KUBERNETES_SERVICE_HOST" in environ or bool(re.search(_CONTAINER, _text(root / "proc/1/cgroup")))


def is_jetson(root: Path) -> bool:
    """Whether this is a Jetson: Tegra's release file (not in every container), its device tree or its SoC's name."""
    if (root / "etc/nv_tegra_release").exists() or _text(root / "sys/devices/soc0/family").strip() == "Tegra":
        return True
    tree = root / "proc/device-tree"
    return "Jetson" in _text(tree / "model") or "nvidia,tegra" in _text(tree / "compatible")


def _on_bus(root: Path) -> bool:
    devices = root / "sys/bus/pci/devices"
    return any(
        _text(device / "vendor").strip() == _NVIDIA_VENDOR and _text(device / "class").startswith(_DISPLAY_CLASS)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _module_version(root: Path) -> str | None:
    told = re.search(_NVRM, _text(root / "proc/driver/nvidia/version"))
    return told[1] if told else _text(root / "sys/module/nvidia/version").strip() or None


def _models(root: Path) -> tuple[str, ...]:
    folder = root / "proc/driver/nvidia/gpus"
    texts = [_text(gpu / "information") for gpu in sorted(folder.iterdir())] if folder.is_dir() else []
    return tuple(found[1] for text in texts if (found := re.search(_MODEL, text)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
