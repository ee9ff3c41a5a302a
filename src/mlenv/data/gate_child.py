"""Run by the new environment's own Python: imports the roots, computes on each GPU, prints one JSON document.

Usage: ``python -I -B gate_child.py IMPORTS GPU`` where IMPORTS is a comma-separated list and GPU is ``gpu`` or ``-``.
"""

import importlib
import json
import sys
import time
import traceback
from typing import Any


def _failure(subject: str, error: BaseException) -> dict[str, object]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "subject": subject,
        "message": f"{type(error).__name__}: {error}",
        "file": last.filename,
        "line": last.lineno,
    }


def _imports(names: list[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name in names:
        start = time.perf_counter()
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # a library may raise SystemExit or worse while it loads
            found.append(_failure(name, error))
            continue
        version = getattr(module, "__version__", None)
        found.append({"subject": name, "version": str(version), "seconds": round(time.perf_counter() - start, 2)})
    return found


_TRITON = """
import triton
import triton.language as tl

@triton.jit
def add_one(pointer, count, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(pointer + offsets, mask=offsets < count)
    tl.store(pointer + offsets, values + 1, mask=offsets < count)
"""


def _gpus() -> list[dict[str, object]]:
    torch = importlib.import_module("torch")
    found: list[dict[str, object]] = []
    for index in range(torch.cuda.device_count()):
        subject = f"cuda:{index}"
        try:
            left = torch.ones((64, 64), device=subject)
            assert float((left @ left).sum()) == 64.0**3, "a matrix product is wrong"
            torch.cuda.synchronize(index)
            torch.cuda.jiterator._create_jit_fn("template <typename T> T twice(T x) { return x + x; }")(left)
            torch.cuda.synchronize(index)
            _triton(torch, subject)
            found.append({"subject": subject, "version": torch.cuda.get_device_name(index)})
        except BaseException as error:
            found.append(_failure(subject, error))
    if not found:
        found.append({"subject": "cuda", "message": "torch sees no GPU", "file": "", "line": 0})
    return found


def _triton(torch: Any, subject: str) -> None:
    import importlib.util
    import pathlib
    import tempfile

    if importlib.util.find_spec("triton") is None:
        return
    with tempfile.TemporaryDirectory() as folder:  # triton reads a kernel's source from its file
        path = pathlib.Path(folder) / "mlenv_gate_kernel.py"
        path.write_text(_TRITON)
        spec = importlib.util.spec_from_file_location("mlenv_gate_kernel", path)
        assert spec is not None
        assert spec.loader is not None
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        values = torch.zeros(128, device=subject)
        with torch.cuda.device(values.device):
            kernel.add_one[(1,)](values, 128, BLOCK=128)
        assert float(values.sum()) == 128.0, "a Triton kernel computed something else"


def main() -> None:
    """Print what was found."""
    names = [name for name in sys.argv[1].split(",") if name]
    document = {"imports": _imports(names), "gpus": _gpus() if sys.argv[2] == "gpu" else []}
    sys.stdout.write("\n" + json.dumps(document) + "\n")


main()
