"""Whether any byte changed since the lock was written: the quick yes of ``lock --check``.

A lock is current if its inputs mean what they meant (``drift``). Where not even a byte of them changed that needs no
parser; a changed byte says nothing, and ``drift`` is asked. Imports next to nothing, as that is what a check costs.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlenv.location import CONSTRAINTS, may_be_brought

KEY = "files"
_LINE = re.compile(rf"(?m)^# mlenv {KEY}: (\S+)\n")
_INPUT = re.compile(r"(?m)^# mlenv input: (.+) \S+$")
_URL = re.compile(rb"""url\s*=\s*("[^"\n]*"|'[^'\n]*')""")
_PIN = re.compile(r"(?m)^[a-z0-9][a-z0-9-]*(?:\[[^\]]*\])?(?:==| @ )")


def seen(root: Path, inputs: Iterable[str], overrides: Mapping[str, object]) -> str:
    """A digest of the bytes that a lock is made from, as they are now; nothing where they can't be read."""
    try:
        return _fingerprint("", root, _settings(root), inputs, overrides)
    except (OSError, ValueError):
        return ""


def stamped(text: str, root: Path, inputs: Iterable[str], overrides: Mapping[str, object], *, before: str) -> str:
    """The lock's text with the line that says from which bytes it was made, after the lines of its inputs.

    Without it where they are not those any more that were ``seen`` before: somebody saved a file meanwhile.
    """
    try:
        table = _settings(root)
        _require_plain(table, root)
        fingerprint = _fingerprint(text, root, table, inputs, overrides)
    except (OSError, ValueError, LookupError):
        return text  # nobody would read it
    if seen(root, inputs, overrides) != before:
        return text
    line = f"# mlenv {KEY}: {fingerprint}\n"
    return re.sub(r"(?m)^(?=# mlenv settings: )", lambda _: line, text, count=1)


def unstamped(text: str) -> str:
    """The lock's text without that line."""
    return _LINE.sub("", text, count=1)


def unchanged(root: Path, overrides: Mapping[str, object]) -> tuple[str, int] | None:
    """(the lock, how many pins it has) where no byte of it and of its inputs changed since; None where one may have.

    ``overrides`` are the settings of the command line. Raises nothing.
    """
    try:
        table = _settings(root)
        _require_plain(table, root)
        name = str(overrides.get("lock") or table.get("lock", "requirements.txt"))
        text = (root / name).read_bytes().decode("utf-8").replace("\r\n", "\n")
        found = _LINE.search(text)
        if found is None or found[1] != _fingerprint(unstamped(text), root, table, _INPUT.findall(text), overrides):
            return None
    except (OSError, ValueError, LookupError):
        return None
    return name, len(_PIN.findall(text))


def in_words(name: str, packages: int) -> str:
    """What is said of a lock that is current."""
    return f"{name} is current ({packages} packages)"


def _fingerprint(
    text: str, root: Path, table: Mapping[str, object], inputs: Iterable[str], overrides: Mapping[str, object]
) -> str:
    """Of the lock, everything that it is made from, and the names that mlenv takes for foundation."""
    overlays = (path.relative_to(root).as_posix() for path in _overlays(root))
    names = pkgutil.get_data("mlenv.data", "foundation.toml") or b""
    said = json.dumps([overrides, table], sort_keys=True, default=str)
    indexes = _URL.sub(b"url", _bytes(root / "uv.toml"))  # URLs are in no digest
    parts = [said.encode(), names, indexes, text.encode()]
    parts += [b"\0".join((path.encode(), _bytes(root / path))) for path in sorted({*inputs, *overlays})]
    whole = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    return f"sha256:{whole.hexdigest()[:32]}"


def _bytes(path: Path) -> bytes:
    """Line ends are git's business; a file that is missing differs from an empty one."""
    return path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else b"\0missing"


def _settings(root: Path) -> Mapping[str, object]:
    """``[tool.mlenv]``: the rest of a pyproject.toml changes often and is of no consequence, unless it is an input."""
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    import tomllib

    tool = tomllib.loads(path.read_bytes().decode("utf-8")).get("tool", {})
    table = tool.get("mlenv", {})
    if "workspace" in tool.get("uv", {}):  # whose members are adopted
        return {"workspace": True, **table}
    return table if isinstance(table, dict) else {}


def _overlays(root: Path) -> Iterable[Path]:
    return (root / CONSTRAINTS).glob("*.txt")


def _require_plain(table: Mapping[str, object], root: Path) -> None:
    """Raise LookupError where there are several locks, or not every mlenv may judge them."""
    if "workspace" in table or any("lock" in each for each in _tables(table.get("backends"))):
        raise LookupError("more than one lock")
    if "required-version" in table:
        raise LookupError("perhaps for another mlenv")
    if any(may_be_brought(path.stem.removeprefix("nightly-")) for path in _overlays(root)):
        raise LookupError("perhaps with an installed plugin's names")


def _tables(value: object) -> Iterable[Mapping[str, object]]:
    return (each for each in value.values() if isinstance(each, dict)) if isinstance(value, dict) else ()
