"""Put in front of the Python that uv would build a source distribution with: takes a copy of the source, and ends.

uv has fetched it, compared its hash and unpacked it by then, and starts the build in its folder (PEP 517). uv is given
this file as ``sitecustomize`` (PYTHONPATH), so it runs before anything of the package.
"""

import os
import shutil

try:
    _to = os.environ["MLENV_TAKE_SOURCE_TO"]
    shutil.copytree(os.getcwd(), _to + ".part", symlinks=True)  # noqa: PTH109 - pathlib is no help here
    os.rename(_to + ".part", _to)  # noqa: PTH104
finally:  # whatever happened: Python would go on to the package's code
    os._exit(97)
