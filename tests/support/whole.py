"""Whether an environment is whole, found out without mlenv: every RECORD read, every file hashed, nothing left over."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

# What an environment has before anything is installed into it, and what running Python adds.
_UNOWNED = re.compile(r"(.*/)?__pycache__(/.*)?|_virtualenv\.(py|pth)")
_PIN = re.compile(r"(?m)^([a-z0-9-]+)==([^\s;]+)")
_STATE = {"gen", "lock", ".gitignore", "history.json", "leases"}


def damage(environment: Path) -> list[str]:
    """What is wrong with an environment, file by file; empty where it is whole."""
    root = environment.resolve()
    config = root / "pyvenv.cfg"
    if not config.is_file() or "home = " not in config.read_text():
        return [f"{config} is no virtual environment's"]
    if not (root / "bin" / "python").exists():
        return [f"{root} has no Python"]
    site = next((root / "lib").glob("python3*")) / "site-packages"
    told, owned = [], set()
    for info in site.glob("*.dist-info"):
        for path, expected in _record(info):
            owned.add(path)
            if not path.is_file():
                told.append(f"{path} is missing")
            elif expected and _hash(path) != expected:
                told.append(f"{path} is not what {info.name} brought")
        if not {info / "RECORD", info / "INSTALLER", info / "METADATA"} <= owned:
            told.append(f"{info.name} was not finished")
    files = (path for path in site.rglob("*") if path.is_file())
    loose = [path for path in files if path not in owned and not _UNOWNED.fullmatch(str(path.relative_to(site)))]
    return told + [f"{path} belongs to no package" for path in loose]


def _record(info: Path) -> Iterator[tuple[Path, str]]:
    """(path, its hash or nothing) for each row; a row without three fields fails here."""
    record = info / "RECORD"
    if not record.is_file():
        return
    for path, digest, _ in csv.reader(record.read_text().splitlines()):
        yield Path(info.parent, path).resolve() if ".." in path else info.parent / path, digest


def _hash(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def installed(environment: Path) -> dict[str, str]:
    """name → version of what is there."""
    infos = (environment.resolve() / "lib").glob("python3*/site-packages/*.dist-info")
    found = (path.name.removesuffix(".dist-info").split("-", 1) for path in infos)
    return {name.replace("_", "-"): version for name, version in found}


def pinned(lock: str) -> dict[str, str]:
    """name → version of what a lock holds."""
    return dict(_PIN.findall(lock))


def leftovers(root: Path) -> list[str]:
    """What nobody asked for in the project and in mlenv's folder: temporary files, generations without marker."""
    state = root / ".mlenv"
    generations = list((state / "gen").iterdir()) if (state / "gen").is_dir() else []
    found = [path for path in root.iterdir() if re.fullmatch(r"\.(\.?venv|requirements\.txt)\..*", path.name)]
    found += [path for path in state.iterdir() if path.name not in _STATE] if state.is_dir() else []
    found += [path for path in generations if not (path / "mlenv.json").is_file()]
    found += [path for folder in generations for path in (*folder.glob(".mlenv.json.*"), *folder.glob("uv.toml"))]
    return sorted(path.relative_to(root).as_posix() for path in found)
