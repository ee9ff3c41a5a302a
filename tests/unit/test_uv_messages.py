"""What uv 0.13.9 says, captured by running it against a loopback index, and what mlenv makes of it.

A message that a newer uv words otherwise is to be captured anew here; ``test_errors.py`` runs the real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlenv.errors import (
    ConflictError,
    EnvironmentBuildError,
    FaultError,
    IntegrityError,
    MlenvError,
    NoSpaceError,
    NoWheelError,
    PackageIndexError,
    ResolutionError,
    UnreachableError,
)
from mlenv.system.uv_messages import explain, mask, missing_name, shorten

FILES = {
    ".mlenv-in/pyproject.toml": '[project]\ndependencies = ["torch==2.15.0", "torch==2.9.1", "torch==2.99.0"]\n',
    "constraints/cu130.txt": "numpy<2\n",
    "requirements.in": "vllm>=0.8\nnumpy>=2\nsympy<1.13\noldpy\ntorch<2.9\nwinonly\ngone\nyank\nex[gpu]\n",
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What uv said, and the whole error that comes of it."""

    name: str
    said: str
    kind: type[MlenvError]
    message: str
    hint: str


SNAPSHOTS = (
    Snapshot(
        name="redirect loop",
        said="error: Missing `Content-Type` header for `http://index.test/d/simple/demo/`\n",
        kind=PackageIndexError,
        message=(
            "http://index.test/d/simple/demo/ answered with something that can't be read: Missing `Content-Type` "
            "header for `http://index.test/d/simple/demo/`"
        ),
        hint=("try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index"),
    ),
    Snapshot(
        name="conflict",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because all versions of c depend on b<2 and all versions of a depend on b>=2, we can "
            "conclude that all versions of a and all versions of c are incompatible.\n"
            "         And because you require a and c, we can conclude that your requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=("all versions of c depend on b<2 and all versions of a depend on b>=2,\nand you require a and c."),
        hint=("loosen one of the two requirements, or move the other with `mlenv lock -P NAME`"),
    ),
    Snapshot(
        name="unreachable",
        said=(
            "error: Failed to fetch: http://index.test/simple/a/\n"
            "  cause: error sending request for url (http://index.test/simple/a/)\n"
            "  cause: client error (Connect)\n"
            "  cause: tcp connect error\n"
            "  cause: Connection refused (os error 111)\n"
        ),
        kind=UnreachableError,
        message=("http://index.test/simple/a/ can't be reached: Connection refused (os error 111)"),
        hint=("check the network and the proxy; with a filled cache, --offline works without it"),
    ),
    Snapshot(
        name="dns",
        said=(
            "error: Failed to fetch: http://nosuch.invalid/simple/a/\n"
            "  cause: error sending request for url (http://nosuch.invalid/simple/a/)\n"
            "  cause: client error (Connect)\n"
            "  cause: dns error\n"
            "  cause: error resolving DNS\n"
            "  cause: failed to lookup address information: Name or service not known\n"
        ),
        kind=UnreachableError,
        message=(
            "http://nosuch.invalid/simple/a/ can't be reached: failed to lookup address information: Name or "
            "service not known"
        ),
        hint=("check the network and the proxy; with a filled cache, --offline works without it"),
    ),
    Snapshot(
        name="status 401",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because a was not found in the package registry and you require a, we can conclude that "
            "your requirements are unsatisfiable.\n"
            "\n"
            "hint: An index URL (http://index.test/d/simple) could not be queried due to a lack of valid "
            "authentication credentials (401 Unauthorized)\n"
        ),
        kind=PackageIndexError,
        message=("http://index.test/d/simple answered 401 Unauthorized"),
        hint=("give credentials in UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD, ~/.netrc or a keyring"),
    ),
    Snapshot(
        name="status 403",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because a was not found in the package registry and you require a, we can conclude that "
            "your requirements are unsatisfiable.\n"
            "\n"
            "hint: An index (http://index.test/d/simple) returned a 403 Forbidden error. Check that the index "
            "URL is correct and the credentials are valid.\n"
        ),
        kind=PackageIndexError,
        message=("http://index.test/d/simple answered 403 Forbidden"),
        hint=("give credentials in UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD, ~/.netrc or a keyring"),
    ),
    Snapshot(
        name="status 429",
        said=(
            "error: Failed to fetch: http://index.test/d/simple/a/\n"
            "  cause: HTTP status client error (429 Too Many Requests) for url (http://index.test/d/simple/a/)\n"
        ),
        kind=PackageIndexError,
        message=("http://index.test/d/simple/a/ answered 429 Too Many Requests"),
        hint=("try again later, or name a mirror: MLENV_INDEX_URL_<NAME>=<URL>"),
    ),
    Snapshot(
        name="status 500",
        said=(
            "error: Failed to fetch: http://index.test/d/simple/a/\n"
            "  cause: HTTP status server error (500 Internal Server Error) for url "
            "(http://index.test/d/simple/a/)\n"
        ),
        kind=PackageIndexError,
        message=("http://index.test/d/simple/a/ answered 500 Internal Server Error"),
        hint=("try again later, or name a mirror: MLENV_INDEX_URL_<NAME>=<URL>"),
    ),
    Snapshot(
        name="portal",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because there are no versions of a and you require a, we can conclude that your "
            "requirements are unsatisfiable.\n"
        ),
        kind=PackageIndexError,
        message=("the index answered for a with a page that lists no file"),
        hint=("is it the right URL? A login page or a proxy answers like that; open the index's URL in a browser"),
    ),
    Snapshot(
        name="trunc",
        said=(
            "error: Failed to fetch: http://index.test/d/simple/a/\n"
            "  cause: error decoding response body for url (http://index.test/d/simple/a/)\n"
            "  cause: request or response body error\n"
            "  cause: error reading a body from connection\n"
            "  cause: end of file before message length reached\n"
        ),
        kind=PackageIndexError,
        message=(
            "http://index.test/d/simple/a/ answered with something that can't be read: end of file before "
            "message length reached"
        ),
        hint=("try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index"),
    ),
    Snapshot(
        name="dropped",
        said=(
            "error: Failed to fetch: http://index.test/d/simple/a/\n"
            "  cause: error sending request for url (http://index.test/d/simple/a/)\n"
            "  cause: client error (SendRequest)\n"
            "  cause: connection closed before message completed\n"
        ),
        kind=UnreachableError,
        message=("http://index.test/d/simple/a/ can't be reached: connection closed before message completed"),
        hint=("check the network and the proxy; with a filled cache, --offline works without it"),
    ),
    Snapshot(
        name="slow",
        said=(
            "error: Failed to fetch: http://index.test/d/simple/a/\n"
            "  cause: error sending request for url (http://index.test/d/simple/a/)\n"
            "  cause: operation timed out\n"
        ),
        kind=UnreachableError,
        message=("http://index.test/d/simple/a/ can't be reached: operation timed out"),
        hint=("check the network and the proxy; where the index is slow, UV_HTTP_TIMEOUT=60 waits longer for it"),
    ),
    Snapshot(
        name="a file that stalls",
        said=(
            "error: Failed to download `demo==1.0`\n"
            "  cause: error decoding response body\n"
            "  cause: Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT "
            "(current value: 12s).\n"
        ),
        kind=UnreachableError,
        message="the index, asked for demo==1.0, can't be reached: operation timed out",
        hint="check the network and the proxy; where the index is slow, UV_HTTP_TIMEOUT=60 waits longer for it",
    ),
    Snapshot(
        name="file 404",
        said=(
            "error: Failed to fetch: http://index.test/d/files/a-1.0-py3-none-any.whl.metadata\n"
            "  cause: HTTP status client error (404 Not Found) for url "
            "(http://index.test/d/files/a-1.0-py3-none-any.whl.metadata)\n"
        ),
        kind=PackageIndexError,
        message=("http://index.test/d/files/a-1.0-py3-none-any.whl.metadata answered 404 Not Found"),
        hint=("try again later, or name a mirror: MLENV_INDEX_URL_<NAME>=<URL>"),
    ),
    Snapshot(
        name="meta portal",
        said=(
            "error: Hash mismatch for package metadata at "
            "`http://index.test/d/files/a-1.0-py3-none-any.whl.metadata`\n"
            "\n"
            "Expected:\n"
            "  sha256:345611a66f9ad267b48995eb5d2aeb901dbb3fd2654d84827452478f7cd23eea\n"
            "\n"
            "Computed:\n"
            "  sha256:2bcebd5c065621223cbfab46e7404f238764bfc54f18b4e582873fe7e53575ad\n"
        ),
        kind=IntegrityError,
        message=(
            "http://index.test/d/files/a-1.0-py3-none-any.whl.metadata is not the file it should be: its bytes "
            "differ from the hash\n"
            "expected sha256:345611a66f9ad267b48995eb5d2aeb901dbb3fd2654d84827452478f7cd23eea\n"
            "computed sha256:2bcebd5c065621223cbfab46e7404f238764bfc54f18b4e582873fe7e53575ad"
        ),
        hint=(
            "the index, or something between it and you, changed the file: compare with the index before you "
            "trust either"
        ),
    ),
    Snapshot(
        name="offline",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because a was not found in the cache and you require a, we can conclude that your "
            "requirements are unsatisfiable.\n"
            "\n"
            "hint: Packages were unavailable because the network was disabled. When the network is disabled, "
            "registry packages may only be read from the cache.\n"
        ),
        kind=PackageIndexError,
        message=("a is not in uv's cache, and the network is switched off"),
        hint=("run it again without --offline (or UV_OFFLINE)"),
    ),
    Snapshot(
        name="vllm",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because vllm<=0.1 depends on torch==2.0.1 and vllm==0.2.5 depends on torch==2.1.2, we can "
            "conclude that vllm<=0.2.5 depends on one of:\n"
            "             torch==2.0.1\n"
            "             torch==2.1.2\n"
            "\n"
            "         And because vllm==0.5.0 depends on torch==2.3.0 and vllm==0.10.0 depends on torch==2.7.1, "
            "we can conclude that all of:\n"
            "             vllm<=0.5.0\n"
            "             vllm==0.10.0\n"
            "         depend on one of:\n"
            "             torch==2.0.1\n"
            "             torch==2.1.2\n"
            "             torch==2.3.0\n"
            "             torch==2.7.1\n"
            "\n"
            "         And because vllm==0.9.0 depends on torch==2.7.0 and vllm==0.8.1 depends on torch==2.6.0, "
            "we can conclude that vllm<=0.10.0 depends on one of:\n"
            "             torch==2.0.1\n"
            "             torch==2.1.2\n"
            "             torch==2.3.0\n"
            "             torch==2.6.0\n"
            "             torch==2.7.0\n"
            "             torch==2.7.1\n"
            "\n"
            "         And because vllm==0.11.0 depends on torch==2.8.0 and vllm>=0.12.0 depends on torch==2.9.0, "
            "we can conclude that all versions of vllm depend on torch<=2.9.0.\n"
            "         And because mlenv-inputs depends on vllm and torch==2.9.1, we can conclude that your "
            "requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=(
            "all versions of vllm depend on torch<=2.9.0,\n"
            "and requirements.in requires vllm, and this project requires torch==2.9.1."
        ),
        hint=(
            "loosen one of the two requirements, or move the other with `mlenv lock -P NAME`; -v shows uv's "
            "whole explanation"
        ),
    ),
    Snapshot(
        name="vllm range",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because vllm==0.8.1 depends on torch==2.6.0 and vllm==0.9.0 depends on torch==2.7.0, we "
            "can conclude that vllm>=0.8.1,<=0.9.0 depends on one of:\n"
            "             torch==2.6.0\n"
            "             torch==2.7.0\n"
            "\n"
            "         And because vllm==0.10.0 depends on torch==2.7.1 and vllm==0.11.0 depends on torch==2.8.0, "
            "we can conclude that vllm>=0.8.1,<=0.11.0 depends on one of:\n"
            "             torch==2.6.0\n"
            "             torch==2.7.0\n"
            "             torch==2.7.1\n"
            "             torch==2.8.0\n"
            "\n"
            "         And because mlenv-inputs depends on vllm>=0.8,<0.12 and torch==2.9.1, we can conclude that "
            "your requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=(
            "vllm==0.8.1 depends on torch==2.6.0 and vllm==0.9.0 depends on torch==2.7.0,\n"
            "and vllm==0.10.0 depends on torch==2.7.1 and vllm==0.11.0 depends on torch==2.8.0,\n"
            "and requirements.in requires vllm>=0.8,<0.12, and this project requires torch==2.9.1."
        ),
        hint=("loosen one of the two requirements, or move the other with `mlenv lock -P NAME`"),
    ),
    Snapshot(
        name="numpy bound",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because mlenv-inputs depends on numpy>=2 and numpy<2, we can conclude that your "
            "requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=("requirements.in requires numpy>=2, and constraints/cu130.txt allows numpy<2."),
        hint=("loosen one of the two requirements, or move the other with `mlenv lock -P NAME`"),
    ),
    Snapshot(
        name="sympy",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because torch==2.9.1 depends on sympy>=1.13.3 and mlenv-inputs depends on sympy<1.13, we "
            "can conclude that your requirements and torch==2.9.1 are incompatible.\n"
            "         And because mlenv-inputs depends on torch==2.9.1, we can conclude that your requirements "
            "are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=(
            "torch==2.9.1 depends on sympy>=1.13.3 and requirements.in requires sympy<1.13,\n"
            "and this project requires torch==2.9.1."
        ),
        hint=("loosen one of the two requirements, or move the other with `mlenv lock -P NAME`"),
    ),
    Snapshot(
        name="torch direct",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because mlenv-inputs depends on torch<2.9 and torch==2.9.1, we can conclude that your "
            "requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=("requirements.in requires torch<2.9, and this project requires torch==2.9.1."),
        hint=("loosen one of the two requirements, or move the other with `mlenv lock -P NAME`"),
    ),
    Snapshot(
        name="torch missing",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because there is no version of torch==2.99.0 and mlenv-inputs depends on torch==2.99.0, we "
            "can conclude that your requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=("there is no version of torch==2.99.0 and this project requires torch==2.99.0."),
        hint=("require a release that the index has"),
    ),
    Snapshot(
        name="oldpy",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because the requested Python version (>=3.11) does not satisfy Python>=3.13 and oldpy==1.0 "
            "depends on Python>=3.13, we can conclude that oldpy==1.0 cannot be used.\n"
            "         And because only oldpy>=1.0 is available and only the following versions of oldpy are "
            "available:\n"
            "             oldpy<=1.0\n"
            "             oldpy>=2.0\n"
            "         we can conclude that oldpy<2.0 cannot be used. (1)\n"
            "\n"
            "         Because the requested Python version (>=3.11) does not satisfy Python>=3.14 and oldpy==2.0 "
            "depends on Python>=3.14, we can conclude that oldpy==2.0 cannot be used.\n"
            "         And because only oldpy<=2.0 is available, we can conclude that oldpy>=2.0 cannot be used.\n"
            "         And because we know from (1) that oldpy<2.0 cannot be used, we can conclude that all "
            "versions of oldpy cannot be used.\n"
            "         And because mlenv-inputs depends on oldpy, we can conclude that your requirements are "
            "unsatisfiable.\n"
            "\n"
            "hint: The `--python-version` value (>=3.11) includes Python versions that are not supported by your "
            "dependencies (e.g., oldpy==1.0 only supports >=3.13). Consider using a higher `--python-version` "
            "value.\n"
        ),
        kind=ConflictError,
        message=(
            "oldpy==1.0 depends on Python>=3.13, and the lock is for Python 3.11,\n"
            "and oldpy==2.0 depends on Python>=3.14, and the lock is for Python 3.11,\n"
            "and requirements.in requires oldpy."
        ),
        hint=(
            'lock for a newer Python, such as [tool.mlenv] python = "3.13"; or require a release that runs on '
            "this one; -v shows uv's whole explanation"
        ),
    ),
    Snapshot(
        name="winonly",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because winonly==1.0 has no wheels with a matching platform tag (e.g., "
            "`manylinux_2_28_x86_64`) and only winonly==1.0 is available, we can conclude that all versions of "
            "winonly cannot be used.\n"
            "         And because mlenv-inputs depends on winonly, we can conclude that your requirements are "
            "unsatisfiable.\n"
            "\n"
            "hint: Wheels are available for `winonly` (v1.0) on the following platform: `win_amd64`\n"
        ),
        kind=ConflictError,
        message=(
            "winonly==1.0 has no wheels with a matching platform tag (e.g., `manylinux_2_28_x86_64`) and only "
            "winonly==1.0 is available,\n"
            "and requirements.in requires winonly."
        ),
        hint=("require a release that has a wheel for this platform and Python, or leave it out there with a marker"),
    ),
    Snapshot(
        name="extra",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because all versions of ex[gpu] depend on numpy>=3 and only numpy<=2.1.0 is available, we "
            "can conclude that all versions of ex[gpu] cannot be used.\n"
            "         And because mlenv-inputs depends on ex[gpu], we can conclude that your requirements are "
            "unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=(
            "all versions of ex[gpu] depend on numpy>=3 and only numpy<=2.1.0 is available,\n"
            "and requirements.in requires ex[gpu]."
        ),
        hint=("require a release that the index has"),
    ),
    Snapshot(
        name="missing trans",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because gone was not found in the package registry and mlenv-inputs depends on gone, we "
            "can conclude that your requirements are unsatisfiable.\n"
        ),
        kind=ConflictError,
        message=("gone was not found in the package registry and requirements.in requires gone."),
        hint=("check its spelling; a package of your own index needs a line in [tool.mlenv.index]"),
    ),
    Snapshot(
        name="hash",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "error: Failed to download `demo==1.0`\n"
            "  cause: Hash mismatch for `demo==1.0`\n"
            "\n"
            "         Expected:\n"
            "           sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
            "\n"
            "         Computed:\n"
            "           sha256:00ec3139b25c38fa311515c4ab5611dff79edb85929dff43f0f8bd9a292f9fd2\n"
        ),
        kind=IntegrityError,
        message=(
            "demo==1.0 is not the file it should be: its bytes differ from the hash\n"
            "expected sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
            "computed sha256:00ec3139b25c38fa311515c4ab5611dff79edb85929dff43f0f8bd9a292f9fd2"
        ),
        hint=(
            "the index, or something between it and you, changed the file: compare with the index before you "
            "trust either"
        ),
    ),
    Snapshot(
        name="install trunc",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "error: Failed to download `demo==1.0`\n"
            "  cause: Failed to write to the distribution cache\n"
            "  cause: error decoding response body\n"
            "  cause: request or response body error\n"
            "  cause: error reading a body from connection\n"
            "  cause: end of file before message length reached\n"
        ),
        kind=PackageIndexError,
        message=(
            "the index, asked for demo==1.0, answered with something that can't be read: end of file before "
            "message length reached"
        ),
        hint=("try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index"),
    ),
    Snapshot(
        name="install dropped",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "error: Failed to download `demo==1.0`\n"
            "  cause: Failed to fetch: http://index.test/d/files/demo-1.0-py3-none-any.whl\n"
            "  cause: error sending request for url (http://index.test/d/files/demo-1.0-py3-none-any.whl)\n"
            "  cause: client error (SendRequest)\n"
            "  cause: connection closed before message completed\n"
        ),
        kind=UnreachableError,
        message=(
            "http://index.test/d/files/demo-1.0-py3-none-any.whl can't be reached: connection closed before "
            "message completed"
        ),
        hint=("check the network and the proxy; with a filled cache, --offline works without it"),
    ),
    Snapshot(
        name="install portal",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "error: Failed to download `demo==1.0`\n"
            "  cause: Failed to extract archive: demo-1.0-py3-none-any.whl\n"
            "  cause: Invalid zip file structure\n"
            "  cause: Encountered an unexpected header (actual: 0x4f44213c, expected: 0x4034b50).\n"
        ),
        kind=PackageIndexError,
        message=(
            "the index, asked for demo==1.0, answered with something that can't be read: Encountered an "
            "unexpected header (actual: 0x4f44213c, expected: 0x4034b50)."
        ),
        hint=("try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index"),
    ),
    Snapshot(
        name="install offline",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "error: Failed to download `demo==1.0`\n"
            "  cause: Network connectivity is disabled, but the requested data wasn't found in the cache: "
            "http://index.test/d/files/demo-1.0-py3-none-any.whl\n"
        ),
        kind=PackageIndexError,
        message=("what is needed is not in uv's cache, and the network is switched off"),
        hint=("run it again without --offline (or UV_OFFLINE)"),
    ),
    Snapshot(
        name="denied",
        said=(
            "Using Python 3.11.7 environment at: v\n"
            "Prepared 1 package in 10ms\n"
            "error: Failed to install: demo-1.0-py3-none-any.whl (demo==1.0)\n"
            "  cause: Failed to create directory `/env/v/lib/python3.11/site-packages/demo`\n"
            "  cause: failed to create directory `/env/v/lib/python3.11/site-packages/demo`: Operation not "
            "permitted (os error 1)\n"
        ),
        kind=EnvironmentBuildError,
        message=(
            "a file can't be written\n"
            "Failed to install: demo-1.0-py3-none-any.whl (demo==1.0)\n"
            "failed to create directory `/env/v/lib/python3.11/site-packages/demo`: Operation not permitted (os "
            "error 1)"
        ),
        hint=("check the permissions of the path above"),
    ),
    Snapshot(
        name="guard",
        said=(
            "error: Failed to build `hostile==1.0`\n"
            "  cause: The build backend returned an error\n"
            "  cause: Call to `build_backend.get_requires_for_build_wheel` failed (exit status: 97)\n"
            "\n"
            "         [stderr]\n"
            "         mlenv-build-refused: hostile\n"
            "\n"
            "hint: Build failures usually indicate a problem with the package or the build environment\n"
        ),
        kind=NoWheelError,
        message=(
            "hostile==1.0 has no wheel and does not say statically what it requires: its build code would have "
            "to run at lock time"
        ),
        hint=('if you trust it, name it: [tool.mlenv] build = ["hostile"]; or require a release that has a wheel'),
    ),
    Snapshot(
        name="bad option",
        said=(
            "error: unexpected argument '--nonsense' found\n"
            "\n"
            "  tip: a similar argument exists: '--no-sources'\n"
            "\n"
            "Usage: uv pip compile --config-file <CONFIG_FILE> --quiet... --color <COLOR_CHOICE> --python "
            "<PYTHON> --no-sources <SRC_FILE|--group <GROUP>>\n"
            "\n"
            "For more information, try '--help'.\n"
        ),
        kind=FaultError,
        message=(
            "uv refuses how mlenv calls it: unexpected argument '--nonsense' found\n"
            "  tip: a similar argument exists: '--no-sources'\n"
            "Usage: uv pip compile --config-file <CONFIG_FILE> --quiet... --color <COLOR_CHOICE> --python "
            "<PYTHON> --no-sources <SRC_FILE|--group <GROUP>>\n"
            "For more information, try '--help'."
        ),
        hint=("is uv much newer than mlenv? Reinstall mlenv"),
    ),
    Snapshot(
        name="garbage",
        said=(
            "error: Received some unexpected JSON from `http://index.test/d/simple/demo/`\n"
            "  cause: EOF while parsing an object at line 1 column 12\n"
        ),
        kind=PackageIndexError,
        message=(
            "http://index.test/d/simple/demo/ answered with something that can't be read: EOF while parsing an "
            "object at line 1 column 12"
        ),
        hint=("try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index"),
    ),
    Snapshot(
        name="the real vllm",
        said=(
            "error: No solution found when resolving dependencies\n"
            "  cause: Because vllm>=0.9.0,<=0.9.2 depends on torch==2.7.0 and vllm>=0.10.0,<=0.10.1.1 depends on "
            "torch==2.7.1, we can conclude that vllm>=0.9.0,<=0.10.1.1 depends on torch>=2.7.0,<=2.7.1.\n"
            "         And because vllm>=0.10.2,<=0.11.0 depends on torch==2.8.0 and vllm>=0.11.1,<=0.13.0 "
            "depends on torch==2.9.0, we can conclude that vllm>=0.9.0,<=0.13.0 depends on torch>=2.7.0,<=2.9.0.\n"
            "         And because all of:\n"
            "             vllm>=0.14.0,<=0.14.1\n"
            "             vllm==0.16.0\n"
            "         depend on torch==2.9.1 and vllm>=0.15.0,<=0.15.1 has no wheels with a matching platform "
            "tag (e.g., `manylinux_2_28_x86_64`), we can conclude that vllm>=0.15.0,<=0.15.1 depends on "
            "torch>=2.7.0,<=2.9.1.\n"
            "         And because vllm>=0.17.0,<=0.19.1 depends on torch==2.10.0 and vllm>=0.20.0,<=0.26.0 "
            "depends on torch==2.11.0, we can conclude that vllm>=0.9.0,<=0.26.0 depends on "
            "torch>=2.7.0,<=2.11.0.\n"
            "         And because vllm>=0.27.0,<=0.32.0 depends on torch==2.13.0 and vllm>=0.33.0 depends on "
            "torch==2.14.0, we can conclude that vllm>=0.9.0 depends on one of:\n"
            "             torch>=2.7.0,<=2.11.0\n"
            "             torch>=2.13.0,<=2.14.0\n"
            "\n"
            "         And because mlenv-inputs depends on vllm>=0.9 and torch==2.15.0, we can conclude that your "
            "requirements are unsatisfiable.\n"
            "\n"
            "hint: Wheels are available for `vllm` (v0.15.1) on the following platforms: "
            "`manylinux_2_31_aarch64`, `manylinux_2_31_x86_64`\n"
        ),
        kind=ConflictError,
        message=(
            "vllm>=0.9.0 depends on torch>=2.7.0,<=2.11.0 or torch>=2.13.0,<=2.14.0,\n"
            "and requirements.in requires vllm>=0.9, and this project requires torch==2.15.0."
        ),
        hint=(
            "loosen one of the two requirements, or move the other with `mlenv lock -P NAME`; -v shows uv's "
            "whole explanation"
        ),
    ),
)


@pytest.mark.parametrize("case", SNAPSHOTS, ids=lambda case: case.name)
def test_what_uv_says_becomes_a_short_error(case: Snapshot) -> None:
    error = explain(case.said, code=1, files=FILES)
    assert (type(error), error.message, error.hint) == (case.kind, case.message, case.hint)
    assert error.detail == case.said.strip()


@pytest.mark.parametrize("case", SNAPSHOTS, ids=lambda case: case.name)
def test_no_error_is_longer_than_four_lines(case: Snapshot) -> None:
    assert len(case.message.splitlines()) <= 4


def test_colours_the_private_folder_and_credentials_are_taken_out() -> None:
    said = "\x1b[31merror\x1b[0m: Failed to fetch: `https://me:pass@host/simple/a/?token=x`\n"
    said += "  cause: /tmp/x/requirements.in\n"
    error = explain(said, code=2, folder="/tmp/x")
    assert error.message == "https://****@host/simple/a/ can't be reached: requirements.in"
    assert error.detail == "error: Failed to fetch: `https://****@host/simple/a/`\n  cause: requirements.in"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:p%40ss@host/x", "https://****@host/x"),
        ("HTTPS://token@host/x", "HTTPS://****@host/x"),
        ("git+ssh://git@host/x", "git+ssh://****@host/x"),
        ("see https://host/x?sig=abc&b=c now", "see https://host/x now"),
        ("'https://me:pass@host/'", "'https://****@host/'"),
        ("me@host and a@b", "me@host and a@b"),
        ("https://host/~me@work/x", "https://host/~me@work/x"),
    ],
)
def test_masking(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(("code", "words"), [(-9, "ended by signal 9"), (2, "exit status 2 and said nothing")])
def test_a_uv_that_says_nothing(code: int, words: str) -> None:
    assert words in explain("", code=code).message


def test_what_is_not_recognised_is_the_callers() -> None:
    assert type(explain("error: who knows", code=2, default=EnvironmentBuildError)) is EnvironmentBuildError


def test_long_output_is_cut() -> None:
    assert shorten("Resolved 3 packages in 1ms\n" + "error: a\n" * 20).splitlines() == ["a"] * 8 + ["..."]


def test_names_that_an_index_lacks() -> None:
    missing = ResolutionError("a-b was not found in the package registry and ...")
    absent = ResolutionError("there is no version of a-b==2 and ...")
    assert (missing_name(missing), missing_name(missing, releases=True)) == ("a-b", "a-b")
    assert (missing_name(absent), missing_name(absent, releases=True)) == (None, "a-b")


def test_of_a_failed_build_the_end_is_told() -> None:
    written = "".join(f"         compiling {number}\n" for number in range(60))
    text = (
        "error: Failed to build `lib @ file:///p/lib`\n  cause: The build backend returned an error\n"
        "  cause: Call to `backend.build_wheel` failed (exit status: 1)\n\n         [stderr]\n"
        f"{written}         fatal error: cuda.h: No such file\n\nhint: Build failures usually indicate a problem\n"
    )
    first, call, *lines = explain(text, code=1, default=EnvironmentBuildError).message.splitlines()
    assert first == "lib @ file:///p/lib could not be built"
    assert call == "Call to `backend.build_wheel` failed (exit status: 1)"
    assert (lines[:2], lines[-1], len(lines)) == (["...", "compiling 41"], "fatal error: cuda.h: No such file", 21)


def test_how_uv_links_is_no_part_of_an_error() -> None:
    text = (
        "warning: Failed to hardlink files; falling back to full copy. This may lead to degraded performance.\n"
        "         If this is intended, set `export UV_LINK_MODE=copy` to suppress this warning.\n"
        "error: Failed to install: a-1.0-py3-none-any.whl (a==1.0)\n"
        "  cause: failed to copy file from /c/a.py to /e/a.py: No space left on device (os error 28)\n"
    )
    error = explain(text, code=2)
    assert isinstance(error, NoSpaceError)
    assert "UV_LINK_MODE" not in error.message
    assert error.message.splitlines()[1] == "Failed to install: a-1.0-py3-none-any.whl (a==1.0)"


def test_an_addition_that_uv_cannot_read_is_called_as_it_was_asked_for() -> None:
    text = "error: Couldn't parse requirement in `with.txt` at position 0\n  cause: expected version to start\n"
    assert explain(text, code=2).message.startswith("Couldn't parse requirement in --with at position 0")
