"""Builds ``nvml_stub.c`` and says which variables make it answer what."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True, kw_only=True)
class StubGpu:
    """One GPU of the stub. ``error`` is what its handle answers; without ``memory_mib`` it has none to tell.

    ``mig`` are the UUIDs of its MIG instances; ``None`` says that MIG is on and has none.
    """

    name: str = "NVIDIA H100"
    uuid: str = "GPU-1"
    capability: str = "9.0"
    memory_mib: int | None = 81559
    error: int = 0
    mig: tuple[str, ...] | None = ()

    def __str__(self) -> str:
        memory = "" if self.memory_mib is None else str(self.memory_mib)
        mig = "none" if self.mig is None else ",".join(self.mig)
        return "|".join((self.name, self.uuid, self.capability, memory, str(self.error), mig))


def compiler() -> str | None:
    """A C compiler on PATH, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(folder: Path, *, cc: str, old: bool = False) -> Path:
    """Compile the stub into ``folder``; returns the library. ``old`` leaves out what drivers before 418 don't have."""
    return compile_library("nvml_stub.c", folder / LIBRARY, cc=cc, flags=("-DOLD_DRIVER",) if old else ())


def compile_library(source: str, library: Path, *, cc: str, flags: Sequence[str] = ()) -> Path:
    """Compile a C file beside this one into a shared library; returns it."""
    usual = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{library.name}")
    subprocess.run([cc, *usual, *flags, "-o", str(library), str(Path(__file__).with_name(source))], check=True)
    return library


def answers(
    *gpus: StubGpu, init: int = 0, driver: str = "580.65.06", cuda: str = "13000", count: int = 0
) -> dict[str, str]:
    """The variables that make the stub answer so. ``driver`` and ``cuda`` may be ``!CODE``, an error."""
    return {
        "NVML_STUB_INIT": str(init),
        "NVML_STUB_DRIVER": driver,
        "NVML_STUB_CUDA": cuda,
        "NVML_STUB_COUNT": str(count),
        "NVML_STUB_GPUS": _joined(gpus),
    }


def _joined(gpus: Sequence[StubGpu]) -> str:
    return ";".join(map(str, gpus))
