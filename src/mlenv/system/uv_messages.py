"""What uv says when it fails, turned into mlenv's errors: a few lines that name the two sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mlenv import wheelless
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
from mlenv.values import dataclass

if TYPE_CHECKING:
    from packaging.requirements import Requirement

UPGRADES = "--upgrade-package"
"""What the words after ``-P`` are called among the files."""

WITH, ASKED_WITH = "with.txt", "--with asks for"
"""The file that holds personal additions, and what a conflict says of them."""

# The name of the project that mlenv generates for uv; see resolution.py.
GENERATED_PROJECT = "mlenv-inputs"

_CREDENTIALS = r"(?i)(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s@`'\"]+@"
_QUERY = r"(?i)(https?://[^\s?`'\"]+)\?[^\s`'\")]*"
_ANSI = r"\x1b\[[0-9;?]*[a-zA-Z]"
_REFUSED_BUILD = r"mlenv-build-refused: (?P<what>.+)"
_DOWNLOADING = r"Failed to download `(?P<what>[^`]+)`"
_BUILDING = r"Failed to build `(?P<what>[^`]+)`"
_BUILD_CALL = r"(?s)(?P<call>Call to `[^`]+` failed[^\n]*)\n(?P<output>.*)"
# Where uv's cache is on another file system; its lines below are indented.
_COPIES = r"(?m)^warning: Failed to (?:hardlink|reflink|clone)[^\n]*\n(?:[ \t]+[^\n]*\n?)*"
_MISSING = r"(?P<name>[a-z0-9][a-z0-9._-]*) was not found in the (?P<where>package registry|cache|provided)"
_EMPTY = r"there are no versions of (?P<name>[a-z0-9][a-z0-9._-]*)"
_ABSENT = r"there is no version of (?P<name>[a-z0-9][a-z0-9._-]*)"
_STATUS = r"(?P<status>[45]\d\d [A-Z][A-Za-z-]*(?: [A-Z][A-Za-z-]*)*)"
_URL = r"(?:url \(|fetch: `?|for: |URL \(|index \(|download |`|from )(?P<url>(?:https?|file)://[^\s`)]+)"
_HASHED = r"[Hh]ash mismatch for (?:package metadata at )?`(?P<what>[^`]+)`"
_NO_FILE = r"failed to query metadata of file `(?P<path>[^`]+)`: No such file"
_NETWORK = (
    "error sending request", "Failed to fetch", "tcp connect error", "dns error", "timed out",
    "invalid peer certificate", "Connection refused", "connection closed", "HTTP status", "Request failed",
    "Failed to download",
)  # fmt: skip
_GARBLED = (
    "Received some unexpected", "unexpected end of file", "error decoding response body",
    "end of file before message length", "Failed to read metadata", "Failed to extract", "invalid gzip header",
    "Invalid zip", "unexpected BOM", "`Content-Type`",
)  # fmt: skip
_SILENT = ("timed out", "network timeout")
_NO_SPACE = (
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "os error 122",
    "File too large",
    "os error 27)",
)
_NO_CACHE = "Failed to initialize cache"
OTHER_CACHE = "name another one: `export UV_CACHE_DIR=~/.cache/uv-own`"
"""What to do where uv's cache can't be written."""
_DENIED = (
    "Permission denied",
    "os error 13)",
    "Read-only file system",
    "os error 30)",
    "Operation not permitted",
    "os error 1)",
)
_OUR_FAULT = (
    "error: unexpected argument",
    "error: invalid value",
    "error: unrecognized subcommand",
    "a value is required for",
)
_PROGRESS = r"\s*(Using Python|Using CPython|Resolved|Prepared|Installed|Audited|Downloading|Downloaded|Building) "
_MAX_LINES = 8
_MAX_LISTED = 4
_MAX_OUTPUT = 20
_WHOLE_OUTPUT = "run again with -v to see its whole output"
_WHOLE = "-v shows uv's whole explanation"


def mask(text: str) -> str:
    """``text`` without user names, passwords and query strings in its URLs."""
    return re.sub(_QUERY, r"\1", re.sub(_CREDENTIALS, r"\g<scheme>****@", text))


def explain(
    text: str,
    *,
    code: int,
    folder: str = "",
    default: type[MlenvError] = ResolutionError,
    files: Mapping[str, str] | None = None,
) -> MlenvError:
    """The error that uv's standard error stands for; its ``detail`` is all that uv said.

    ``folder`` is the private folder uv ran in; it is cut out of the paths. ``default`` is raised for what is not
    recognised. ``code`` is uv's exit status, negative where a signal ended it. ``files`` are the requirements and
    constraints uv read (path → text), so that a conflict names the file that says each side.
    """
    plain = re.sub(_COPIES, "", re.sub(_ANSI, "", text))
    clean = mask(plain.replace(folder + "/", "") if folder else plain).replace(f"`{WITH}`", "--with")
    error = _recognised(clean, files or {}) or _unrecognised(clean, code=code, default=default)
    error.detail = clean.strip()
    return error


def _recognised(text: str, files: Mapping[str, str]) -> MlenvError | None:
    for recognise in (_refused_build, _hash, _space, _gone):
        if (error := recognise(text)) is not None:
            return error
    return _resolution(text, files) or _offline(text) or _index(text)


def _unrecognised(text: str, *, code: int, default: type[MlenvError]) -> MlenvError:
    if code < 0:
        return EnvironmentBuildError(f"uv was ended by signal {-code}", hint="run the same command again")
    if any(word in text for word in _OUR_FAULT):
        return FaultError(
            f"uv refuses how mlenv calls it: {shorten(text)}", hint="is uv much newer than mlenv? Reinstall mlenv"
        )
    if failed := re.search(_BUILDING, text):
        return default(f"{failed['what']} could not be built\n{_said_by_build(text)}", hint=_WHOLE_OUTPUT)
    return default(shorten(text) or f"uv ended with exit status {code} and said nothing", hint="run again with -v")


def _said_by_build(text: str) -> str:
    """What was called, and the end of what that wrote: a compiler's error is the last thing it says."""
    found = re.search(_BUILD_CALL, text)
    if found is None:
        return shorten(text)
    import textwrap

    output = textwrap.dedent(found["output"].partition("\nhint:")[0]).strip("\n").splitlines()
    return "\n".join([found["call"], *(["..."] if len(output) > _MAX_OUTPUT else []), *output[-_MAX_OUTPUT:]])


def shorten(text: str) -> str:
    """The telling lines of a message of uv, at most eight, without its bullet words."""
    lines = [re.sub(r"^\s*(error:|cause:|hint:)\s*", "", line).rstrip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line and not re.match(_PROGRESS, line)]
    return "\n".join(told[:_MAX_LINES] + (["..."] if len(told) > _MAX_LINES else []))


def missing_name(error: MlenvError, *, releases: bool = False) -> str | None:
    """The package that the error says an index does not have; with ``releases`` also one that lacks a release."""
    match = re.search(_MISSING, error.message) or (re.search(_ABSENT, error.message) if releases else None)
    return match["name"] if match else None


def empty_page(error: MlenvError) -> str | None:
    """The package whose page lists no file, where that is what the error says."""
    match = re.match(r"the index answered for (\S+) with a page that lists no file", error.message)
    return match[1] if match else None


def _refused_build(text: str) -> MlenvError | None:
    match = re.search(_REFUSED_BUILD, text)
    if match is None:
        return None
    building = re.findall(_BUILDING, text)
    release = building[-1] if building else match["what"].strip()  # the innermost: a build may require another
    name = re.split(r"[=@ ]", release)[0]
    return NoWheelError(
        f"{release} has no wheel and does not say statically what it requires: "
        "its build code would have to run at lock time",
        hint=wheelless.hint_without_metadata(name),
    )


def _hash(text: str) -> MlenvError | None:
    if "hash mismatch" not in text.lower():
        return None
    named = re.search(_HASHED, text)
    what = named["what"] if named else "a file"
    sums = re.findall(r"(Expected|Computed):\s+(sha\d+:[0-9a-f]+)", text)
    told = "".join(f"\n{label.lower()} {value}" for label, value in sums)
    return IntegrityError(
        f"{what} is not the file it should be: its bytes differ from the hash{told}",
        hint="the index, or something between it and you, changed the file: "
        "compare with the index before you trust either",
    )


def _space(text: str) -> MlenvError | None:
    if any(word in text for word in _NO_SPACE):
        return NoSpaceError(
            f"there is no space left on the device\n{_last_causes(text)}", hint="make room, then run it again"
        )
    if _NO_CACHE in text:
        return EnvironmentBuildError(f"uv's cache can't be used\n{shorten(text)}", hint=OTHER_CACHE)
    if any(word in text for word in _DENIED):
        return EnvironmentBuildError(
            f"a file can't be written\n{_last_causes(text)}", hint="check the permissions of the path above"
        )
    return None


def _last_causes(text: str) -> str:
    """What was tried and the cause at the bottom."""
    told = shorten(text).splitlines()
    return "\n".join(told if len(told) < 3 else [told[0], told[-1]])


# ---------------------------------------------------------------------------------------------------- indexes, network


def _offline(text: str) -> MlenvError | None:
    if not any(
        word in text for word in ("Network connectivity is disabled", "network was disabled", "not found in the cache")
    ):
        return None
    what = re.search(_MISSING, text)
    told = f"{what['name']} is" if what else "what is needed is"
    return PackageIndexError(
        f"{told} not in uv's cache, and the network is switched off",
        hint="run it again without --offline (or UV_OFFLINE)",
    )


def _gone(text: str) -> MlenvError | None:
    match = re.search(_NO_FILE, text)
    if match is None:
        return None
    return PackageIndexError(
        f"{match['path']} is not there any more",
        hint="was it built from a bundle? `mlenv sync --bundle PATH` says where that is now",
    )


def _index(text: str) -> MlenvError | None:
    status, url = re.search(_STATUS, text), re.search(_URL, text)
    named = re.search(_DOWNLOADING, text)
    where = url["url"].rstrip(".") if url else f"the index, asked for {named['what']}," if named else "the index"
    if status is not None:
        return answered(where, status["status"].strip())
    if any(word in text for word in _SILENT):
        return UnreachableError(
            f"{where} can't be reached: operation timed out",
            hint="check the network and the proxy; where the index is slow, UV_HTTP_TIMEOUT=60 waits longer for it",
        )
    if any(word in text for word in _GARBLED):
        return PackageIndexError(
            f"{where} answered with something that can't be read: {_cause(text)}",
            hint="try again; if it stays so, a proxy may be changing the answers, or the URL is not that of an index",
        )
    if not any(word in text for word in _NETWORK):
        return None
    hint = "check the network and the proxy; with a filled cache, --offline works without it"
    if "certificate" in text:
        hint = "a proxy's own certificate? Name it in SSL_CERT_FILE, or set UV_SYSTEM_CERTS=1"
    return UnreachableError(f"{where} can't be reached: {_cause(text)}", hint=hint)


def answered(where: str, status: str) -> MlenvError:
    """The error for an index that answers with an HTTP status (``401 Unauthorized``)."""
    if status[:3] in ("401", "403"):
        return PackageIndexError(
            f"{where} answered {status}",
            hint="give credentials in UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD, ~/.netrc or a keyring",
        )
    return PackageIndexError(
        f"{where} answered {status}", hint="try again later, or name a mirror: MLENV_INDEX_URL_<NAME>=<URL>"
    )


def _cause(text: str) -> str:
    """The cause at the bottom: what the operating system or the server said."""
    causes = [
        line.strip().removeprefix("cause: ") for line in text.split("\nhint:")[0].splitlines() if "cause: " in line
    ]
    return causes[-1] if causes else shorten(text).splitlines()[-1]


# --------------------------------------------------------------------------------------------------------- resolutions


def _resolution(text: str, files: Mapping[str, str]) -> MlenvError | None:
    if "No solution found" not in text and "requirements are unsatisfiable" not in text:
        return None
    if "401 Unauthorized" in text or "403 Forbidden" in text or "lack of valid authentication" in text:
        return _index(text)
    if (offline := _offline(text)) is not None:
        return offline
    if match := re.search(_EMPTY, text):
        return PackageIndexError(
            f"the index answered for {match['name']} with a page that lists no file",
            hint="is it the right URL? A login page or a proxy answers like that; open the index's URL in a browser",
        )
    steps = tuple(_steps(text))
    message = _reason(steps, _Owners(files)) or shorten(text)
    return ConflictError(message, hint=_hint(message) + (f"; {_WHOLE}" if len(steps) > _FEW else ""))


def _hint(message: str) -> str:
    if re.search(_MISSING, message):
        return "check its spelling; a package of your own index needs a line in [tool.mlenv.index]"
    if needed := re.search(r"depends on Python>=(\d+\.\d+)", message):
        python = f'[tool.mlenv] python = "{needed[1]}"'
        return f"lock for a newer Python, such as {python}; or require a release that runs on this one"
    if "has no wheels with a matching" in message:
        return "require a release that has a wheel for this platform and Python, or leave it out there with a marker"
    if re.search(r"there is no version of|only \S+ is available|was yanked", message):
        return "require a release that the index has"
    return f"loosen one of the two requirements{MOVE_THE_OTHER}"


MOVE_THE_OTHER = ", or move the other with `mlenv lock -P NAME`"
"""Of a hint: helps where one of the two is a pin of the old lock."""


_FEW = 3


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One sentence of uv's derivation: because ``premise``, ``conclusion``."""

    premise: str
    conclusion: str


def _steps(text: str) -> Iterator[_Step]:
    """uv's derivation, each list put on one line."""
    start = text.find("Because ")
    if start < 0:
        return
    body = " ".join(_paragraphs(text[start:].split("\nhint:")[0].splitlines()))
    for sentence in re.split(r"(?:^| )(?:Because|And because) ", body):
        premise, _, conclusion = re.sub(r"\.( \(\d+\))?$", "", sentence.strip()).partition(", we can conclude that ")
        if premise:
            yield _Step(premise=premise.strip(), conclusion=conclusion.strip())


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """The lines; the items of a list (they follow a colon, one a line, without spaces) on one line."""
    listed: list[str] = []
    joined = "or"
    for line in (*(raw.strip() for raw in lines), ""):
        if line and " " not in line:
            listed.append(line)
            continue
        if listed:
            yield _enumerated(listed, joined=joined)
            listed = []
        if line:
            joined = "and" if line.endswith("all of:") else "or"
            yield re.sub(r"( one of| all of)?:?$", "", line)


def _enumerated(items: Sequence[str], *, joined: str) -> str:
    shown = list(items) if len(items) <= _MAX_LISTED else [*items[:2], "...", items[-1]]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {joined} {shown[-1]}"


def _reason(steps: Sequence[_Step], owners: _Owners) -> str:
    """The two sides: all premises where they are few, else what the last of them follows from."""
    if not steps:
        return ""
    if bounds := next(filter(None, (_two_bounds(step.premise, owners) for step in steps)), None):
        return bounds
    told = [step.premise for step in steps]
    if len(steps) > _FEW:
        told = _gist(steps)
    named = [
        owners.named(re.sub(_PYTHON, r"\2, and the lock is for Python \1", line))
        for line in told
        if "we know from (" not in line
    ]
    return ",\nand ".join(dict.fromkeys(named)) + "."


def _two_bounds(premise: str, owners: _Owners) -> str | None:
    """Where two files bound one package so that nothing is left: both, and who needs it."""
    found = re.search(_SAME_NAME, premise)
    if found is None:
        return None
    sides = [owners.said(f"{found['name']}{found[side]}") for side in ("one", "other")]
    if None in sides:
        return None
    needing = premise[: found.start()].split("all of")[0].strip()
    needs = "" if needing == GENERATED_PROJECT else f",\nand {needing} needs {found['name']}"
    return f"{sides[0]}, and {sides[1]}{needs}."


def _gist(steps: Sequence[_Step]) -> list[str]:
    """The last conclusion but one where it says who needs what; else what isn't there: a name, a release, a Python."""
    last, before = steps[-1].premise, steps[-2]
    if "depend" in before.conclusion:
        return [before.conclusion, last]
    absent = [step.premise for step in steps if re.search(_ABSENCE, step.premise)]
    if absent:
        return [*absent[:2], last]
    return [steps[-3].conclusion, before.premise, last]


_SAME_NAME = r"\bdepends? on (?P<name>[A-Za-z0-9._-]+?)(?P<one>[<>=!~]\S*) and (?P=name)(?P<other>[<>=!~]\S*)"
_ABSENCE = "was not found in|there is no version of|has no wheels with|requested Python version|was yanked"
_PYTHON = r"the requested Python version \(>=([^)]+)\) does not satisfy Python\S+ and (.+)"
_ONE = r"[A-Za-z0-9][^\s,]*(?:,[<>=!~][^\s,]*)*"
_OWN_REQUIREMENTS = rf"{GENERATED_PROJECT} depends on (?P<first>{_ONE})(?: and (?P<second>{_ONE})(?=$| and |,))?"


@dataclass(frozen=True)
class _Owners:
    """Which file says what: ``files`` are those that uv read."""

    files: Mapping[str, str]

    def named(self, sentence: str) -> str:
        """The sentence, with the file that says it in the place of the generated project."""
        told = re.sub(_OWN_REQUIREMENTS, lambda found: self._said(found["first"], found["second"]), sentence)
        return told.replace(f"{GENERATED_PROJECT} depends on", "this project requires")

    def said(self, text: str) -> str | None:
        """``limits.txt allows urllib3<2``; None where no file says it."""
        owner = self._owner(text)
        return None if owner == _PROJECT else f"{owner} {text}"

    def _said(self, first: str, second: str | None) -> str:
        one = self._owner(first)
        if second is None:
            return f"{one} {first}"
        other = self._owner(second)
        return f"{one} {first} and {second}" if one == other != _PROJECT else f"{one} {first}, and {other} {second}"

    def _owner(self, text: str) -> str:
        wanted = _parsed(text)
        if wanted is None:
            return _PROJECT
        entries = [(path, entry) for path, entry in self._entries() if entry.name == wanted.name]
        exact = [path for path, entry in entries if entry.specifier == wanted.specifier]
        by_name = {path for path, _ in entries}
        return _says(exact[0] if exact else by_name.pop() if len(by_name) == 1 else "")

    def _entries(self) -> Iterator[tuple[str, Requirement]]:
        for path, text in self.files.items():
            for line in _dependencies(text) if path.endswith(".toml") else text.splitlines():
                if (entry := _parsed(line)) is not None:
                    yield path, entry


_PROJECT = "this project requires"


def _says(path: str) -> str:
    """The words for who says it; what mlenv generated for the overlay's pins is the project's."""
    if not path or path.startswith("."):
        return _PROJECT
    told: Mapping[str, str] = {"lock.txt": "the lock pins", WITH: ASKED_WITH, UPGRADES: "-P asks for"}
    return told.get(path, f"{path} allows" if path.startswith("constraints/") else f"{path} requires")


def _dependencies(text: str) -> list[str]:
    import tomllib

    try:
        found = tomllib.loads(text).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError:
        return []
    return [line for line in found if isinstance(line, str)]


def _parsed(line: str) -> Requirement | None:
    """The requirement of a line, its name in canonical form; None for what is none (``-r other.in``, a hash)."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    bare = re.sub(r"\{[^}]*\}", "", line).partition(" #")[0].strip().rstrip("\\").strip()
    try:
        found = Requirement(bare)
    except InvalidRequirement:
        return None
    found.name = canonicalize_name(found.name)
    return found
