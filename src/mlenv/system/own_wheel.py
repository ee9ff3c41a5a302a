"""mlenv's own wheel, made of what runs: whether it was installed from a wheel or from a folder of sources."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import mlenv
from mlenv.errors import FaultError

_KEPT = ("METADATA", "entry_points.txt", "licenses/")
_WHEEL = "Wheel-Version: 1.0\nGenerator: mlenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_THE_TIME = (1980, 1, 1, 0, 0, 0)


def requirements() -> tuple[str, ...]:
    """What mlenv is installed with, at the versions that run here: ``uv==0.13.9``."""
    from packaging.requirements import Requirement

    parsed = (Requirement(line) for line in _distribution().requires or ())
    names = [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in names)


def make() -> tuple[str, bytes]:
    """(its file name, its bytes); the same sources give the same bytes. Raises FaultError where a part is missing."""
    version = _distribution().version
    info = f"mlenv-{version}.dist-info"
    files = {**dict(_code()), **dict(_metadata(info)), f"{info}/WHEEL": _WHEEL.encode()}
    rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (*sorted(files.keys() - {f"{info}/RECORD"}), f"{info}/RECORD"):
            entry = zipfile.ZipInfo(path, date_time=_THE_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[path], compress_type=zipfile.ZIP_DEFLATED)
    return f"mlenv-{version}-py3-none-any.whl", buffer.getvalue()


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("mlenv")
    except importlib.metadata.PackageNotFoundError as error:
        raise FaultError(
            "mlenv runs without being installed, so it can't be put into a bundle",
            hint="install it, or leave it out: --without-mlenv",
        ) from error


def _code() -> Iterator[tuple[str, bytes]]:
    folder = Path(mlenv.__file__).parent
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"mlenv/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _metadata(info: str) -> Iterator[tuple[str, bytes]]:
    for file in _distribution().files or ():
        if file.parts[0].endswith(".dist-info"):
            inside = "/".join(file.parts[1:])
            if inside.startswith(_KEPT):
                yield f"{info}/{inside}", Path(str(file.locate())).read_bytes()


def _digest(data: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
