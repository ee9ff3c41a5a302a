"""An example of a package that brings backends: a company's CUDA build for its own board, and ROCm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlenv.machine import Machine

GFX = ("gfx942", "gfx1100")

catalogue = {
    "backend": [
        {
            "name": "acme132",
            "cuda": "13.2",
            "index": "https://wheels.acme.example/simple",
            "code": [{"torch": ["2.14", "2.15"], "x86_64": [90, 100], "source": "Acme's build log"}],
            "source": "Acme's wheels",
        },
        {"name": "rocm7.1", "source": "PyTorch's installation page"},
    ],
    "release": [
        {"torch": "2.15.0", "backends": ["acme132", "rocm7.1"]},
        {"torch": "2.14.1", "backends": ["acme132"]},
    ],
}
foundation = {"exact": ["acme-kernels"], "patterns": ["rocm-sdk-*"]}


def observe(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """The board that the company's image names, and the AMD GPU."""
    board = root / "etc/acme-board"
    seen = {"board": environ.get("ACME_BOARD") or (board.read_text().strip() if board.is_file() else "")}
    seen["gfx"] = environ.get("ACME_GFX", "")
    return {name: value for name, value in seen.items() if value}


def runs(backend: str, machine: Machine) -> str | None:
    """Why a backend does not run on a machine."""
    if backend == "acme132":
        return None if "acme.board" in machine.facts else "this is no board of Acme's"
    gfx = machine.facts.get("acme.gfx")
    if gfx is None:
        return "no AMD GPU is there"
    return None if gfx in GFX else f"there is no code for {gfx}; there is for {', '.join(GFX)}"
