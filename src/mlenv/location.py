"""Where the project is that a command works on."""

from __future__ import annotations

from pathlib import Path

PROJECT_FILE = "pyproject.toml"


def find_root(start: Path) -> Path:
    """The nearest folder from ``start`` up that has requirements.in, constraints/ or ``[tool.mlenv]``.

    A folder with ``.git`` is the last one looked at. Where there is none, ``start`` itself.
    """
    for folder in (start, *start.parents):
        if _is_root(folder):
            return folder
        if (folder / ".git").exists():
            break
    return start


def _is_root(folder: Path) -> bool:
    return (folder / "requirements.in").is_file() or (folder / "constraints").is_dir() or _has_settings(folder)


def _has_settings(folder: Path) -> bool:
    """Whether the folder's pyproject.toml has ``[tool.mlenv]``; a file that can't be parsed counts by its text."""
    path = folder / PROJECT_FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return False
    if "mlenv" not in text:
        return False
    import tomllib

    try:
        found = tomllib.loads(text).get("tool")
    except (ValueError, RecursionError):
        return "[tool.mlenv" in text
    return isinstance(found, dict) and "mlenv" in found
