"""Put in front of every Python that uv starts while it resolves: refuses to run a package's build code.

uv is given this file as ``sitecustomize`` (PYTHONPATH), so it runs before anything of the package. A build is let
through only where the package is named in ``[tool.mlenv] build``; whose build it is, is read from the folder uv runs it
in (``sdists-v*/<index>/<name>/<version>/...`` in its cache, or a local project's own folder), never from the package.
"""

import json
import os
import sys


def _subject(folder: str) -> str:
    parts = folder.replace("\\", "/").split("/")
    for position, part in enumerate(parts):
        if part.startswith("sdists-v") and len(parts) > position + 3:
            named = position + (2 if parts[position + 1] == "pypi" else 3)
            return parts[named]
    return folder


def _guard() -> None:
    allowed = json.loads(os.environ.get("MLENV_BUILD_ALLOWED", "[]"))
    here = os.path.realpath(os.getcwd())  # noqa: PTH109 - pathlib costs more than the rest of this file
    subject = _subject(here)
    if subject in allowed:
        # What the trusted build starts elsewhere (CMake's helper in a temporary folder) is its own business.
        os.environ.pop("PYTHONPATH", None)
        return
    sys.stderr.write(f"mlenv-build-refused: {subject}\n")
    sys.stderr.flush()
    os._exit(97)


_guard()
