"""Run by an environment's own Python: prints each compiled file (.pyc) that isn't what its source compiles to.

Usage: ``python -I -B -W ignore compiled_child.py SITE_PACKAGES``; one path a line, relative to that folder. No code of
the environment runs. What Python itself would pass over, as it was compiled from another version of the source, counts
as nothing.
"""

import marshal
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER, source_from_cache
from pathlib import Path

_HEADER = 16  # magic number, flags, mtime and size of the source (PEP 552)


def _compiled(site: Path) -> Iterator[Path]:
    for base, _, files in os.walk(site):
        if base.endswith("__pycache__"):
            yield from (Path(base, name) for name in files if name.endswith(".pyc"))


def _used(head: bytes, source: Path) -> bool:
    status = source.stat()
    stamps = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    by_hash = int.from_bytes(head[4:8], "little") & 1
    told = (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little"))
    return head[:4] == MAGIC_NUMBER and bool(by_hash or told == stamps)


def _differs(path: Path) -> bool:
    level = re.search(r"\.opt-(\d)\.pyc$", path.name)
    try:
        source = Path(source_from_cache(str(path)))
        held, written = path.read_bytes(), source.read_bytes()
        if not _used(held[:_HEADER], source):
            return False
    except (OSError, ValueError):
        return False
    try:
        code = compile(written, source, "exec", dont_inherit=True, optimize=int(level[1]) if level else 0)
        return bool(marshal.loads(held[_HEADER:]) != code)
    except Exception:  # Python would fail as well, in more words
        return True


if __name__ == "__main__":
    site = Path(sys.argv[1])
    changed = sorted(path.relative_to(site).as_posix() for path in _compiled(site) if _differs(path))
    sys.stdout.write("".join(f"{path}\n" for path in changed))
