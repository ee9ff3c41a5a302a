"""Builds ``cuda_stub.c`` and says which variables make it answer what."""

from __future__ import annotations

from pathlib import Path

from support.nvml_stub import StubGpu, compile_library

LIBRARY = "libcuda.so.1"


def build(folder: Path, *, cc: str, old: bool = False) -> Path:
    """Compile the stand-in into ``folder``; ``old`` leaves out what drivers before 11.4 don't have."""
    return compile_library("cuda_stub.c", folder / LIBRARY, cc=cc, flags=("-DOLD_DRIVER",) if old else ())


def answers(*gpus: StubGpu, init: int = 0, version: int = 12060) -> dict[str, str]:
    """The variables that make the stand-in answer so; a GPU's ``uuid`` is 32 hexadecimal digits here."""
    listed = [f"{gpu.name}|{gpu.uuid}|{gpu.capability}|{gpu.memory_mib}" for gpu in gpus]
    return {"CUDA_STUB_INIT": str(init), "CUDA_STUB_VERSION": str(version), "CUDA_STUB_GPUS": ";".join(listed)}
