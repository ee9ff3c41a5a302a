"""One line of a requirements file: what it is, or why it is refused (CONTRACT, Trust; FACTS, Reliability and trust 7).

Text in, entries out: an allow-list, so that what is not understood here never reaches uv. Knows how pip joins lines,
what each refused option is replaced by, and what may be quoted of a line that may hold a secret. Reads no files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from mlenv.errors import ProjectError
from mlenv.textfile import unix_ends
from mlenv.values import dataclass

Kind = Literal["requirement", "constraint"]
"""What a file's lines are: to be installed, or bounds for what others install."""

_LONGEST = 4000  # below the digits at which int() refuses, so that a version can't raise
_DEEPEST = 50  # a marker's parentheses are read recursively
_SHOWN = 160

# Patterns are texts: each is compiled when it is first used, as compiling all would cost every start.
_COMMENT = r"(?:^|\s)#"
_CONFLICT = r"(<{7}|={7}|>{7}|\|{7})(\s|$)"
# Line separators that only Python knows, and characters that make a line look like another one.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_OPTION = r"(?s)(?P<name>--[A-Za-z][\w-]*|-[A-Za-z])(?:\s*=\s*|\s+)?(?P<value>.*)"
_LATER_OPTION = r"\s(--?[A-Za-z][\w-]*)"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]+):"
_VCS = r"(?i)(?:^|[\s@])((?:git|hg|svn|bzr)\+|git://|git@[^\s/]+:)"
_FOLDER = r"(?s)(?P<path>[^\[#]+|.*?)(?:\[(?P<extras>[^\]]*)\])?(?:#egg=(?P<name>[\w.-]+)(?:\[(?P<more>[^\]]*)\])?)?"
_SHA256 = r"sha256=[0-9a-fA-F]{64}"
_URL_WITH_USER = r"([A-Za-z][A-Za-z0-9+.-]*://)(?=[^/?#\s]*[:@])\S*@"
_BARE_USER = r"(?<!\S)(?!(?:[^\s:]*@)?file:[^\s:]*(?:\s|$))\S*?:(?!//)\S*@"
_QUERY = r"(://[^\s?#]*)\?[^\s#]*"
_PART = r"(?:egg=[\w.,\[\]-]*|subdirectory=[\w./-]*|(?:md5|sha\d+)=[0-9a-fA-F]*)"
_FRAGMENT = rf"(://[^\s#]*)#(?!{_PART}(?:&{_PART})*(?:\s|$))\S*"

_INCLUDES: Mapping[str, Kind] = {
    "-r": "requirement",
    "--requirement": "requirement",
    "-c": "constraint",
    "--constraint": "constraint",
}
_EDITABLE = ("-e", "--editable")

FLAT_INDEX_HINT = (
    'name the folder or page in uv.toml ([[index]] name = "wheels", url = "./wheels", format = "flat", '
    'explicit = true) and say which packages come from it: [tool.mlenv.index] "NAME" = "wheels"'
)
"""What to do instead of naming a folder or page of wheels, or a wheel as a path."""

INSIDE_HINT = "write a path inside the project, such as ./libs/NAME"
"""What to do about a path that is no local project of this one."""

_NAMED_INDEX = (
    'name the index in uv.toml ([[index]] name = "company", url = ..., explicit = true) '
    'and say which packages come from it: [tool.mlenv.index] "company-*" = "company"'
)
_PRE_RELEASE = "delete the line; where a pre-release is wanted, name it: NAME>=2.0rc1"
_WHEELS_ARE_PREFERRED = "delete the line; mlenv builds nothing that [tool.mlenv] build doesn't name"
_HASHES = "delete the hashes here; `mlenv lock` writes them for every package"
_BUILD_SETTINGS = "delete it; what a build needs belongs into that package's own pyproject.toml"
_WITHOUT_SECRET = (
    "delete the user and the password or token from the address, and hand them over as UV_INDEX_<NAME>_USERNAME and "
    "_PASSWORD, in netrc or in a keyring, for an index that uv.toml names"
)
_HASHABLE = (
    "name a wheel (NAME @ https://.../NAME-1.0-py3-none-any.whl), or a checkout inside the project (-e ./libs/NAME)"
)

_REFUSED: Mapping[str, tuple[str, str]] = {
    "-i": ("refused-index", _NAMED_INDEX),
    "--index-url": ("refused-index", _NAMED_INDEX),
    "--extra-index-url": ("refused-index", _NAMED_INDEX),
    "--no-index": ("refused-index", "delete the line; `--offline` does without an index"),
    "-f": ("refused-find-links", FLAT_INDEX_HINT),
    "--find-links": ("refused-find-links", FLAT_INDEX_HINT),
    "--trusted-host": ("refused-option", 'delete the line; write allow-insecure-host = ["HOST"] in uv.toml'),
    "--no-binary": ("refused-option", 'delete the line; name what may be built: [tool.mlenv] build = ["NAME"]'),
    "--only-binary": ("refused-option", _WHEELS_ARE_PREFERRED),
    "--prefer-binary": ("refused-option", _WHEELS_ARE_PREFERRED),
    "--pre": ("refused-option", _PRE_RELEASE),
    "--all-releases": ("refused-option", _PRE_RELEASE),
    "--only-final": ("refused-option", _PRE_RELEASE),
    "--use-feature": ("refused-option", "delete the line; it is about pip itself"),
    "--hash": ("refused-option", _HASHES),
    "--require-hashes": ("refused-option", _HASHES),
    "--config-settings": ("refused-option", _BUILD_SETTINGS),
    "--config-setting": ("refused-option", _BUILD_SETTINGS),
    "-C": ("refused-option", _BUILD_SETTINGS),
    "--global-option": ("refused-option", _BUILD_SETTINGS),
    "--install-option": ("refused-option", _BUILD_SETTINGS),
    "--build-option": ("refused-option", _BUILD_SETTINGS),
}
_OPTIONS_WITH_ADDRESS = frozenset({*_INCLUDES, *_EDITABLE, "-i", "-f"}) | {
    name for name in _REFUSED if name.endswith(("-url", "-links", "-host"))
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One logical line: its text without the comment, the number of its first physical line, the comment, all of it.

    ``torn``: a comment in it ends in a backslash, so that for pip, not for uv, the next line is comment as well.
    """

    text: str
    number: int
    comment: str | None = None
    raw: str
    torn: bool = False


@dataclass(frozen=True, kw_only=True)
class Named:
    """``name[extras]specifiers; marker``."""

    requirement: Requirement
    line: int
    comment: str | None = None


@dataclass(frozen=True, kw_only=True)
class WheelUrl:
    """``name[extras] @ https://.../x.whl; marker``; a URL without a name got the wheel's."""

    requirement: Requirement
    line: int
    comment: str | None = None


@dataclass(frozen=True, kw_only=True)
class FolderLine:
    """A line that names the folder of a local project, which was not looked up yet."""

    path: str
    editable: bool
    extras: tuple[str, ...] = ()
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class IncludeLine:
    """A line that includes another file, which was not looked up yet; ``path`` as it is written."""

    path: str
    kind: Kind


class Refusal(Exception):
    """Why a line is refused: the kind of a finding, the message, what to write instead."""

    def __init__(self, kind: str, message: str, *, hint: str, shown: str = ""):
        """``shown`` is what may be quoted of the line."""
        super().__init__(message)
        self.kind = kind
        self.message = f"{message}: {shown}" if shown else message
        self.hint = hint

    def at(self, path: str, line: int | None) -> ProjectError:
        """The error for the file and line that it's about."""
        return ProjectError(self.message, hint=self.hint, path=path, line=line)


# ----------------------------------------------------------------------------------------------------- what callers use


def logical_lines(text: str) -> Iterator[Line]:
    """The lines as pip joins them: a final backslash continues one, a whole-line comment ends one. No blank ones."""
    parts: list[str] = []
    for number, physical in enumerate(unix_ends(text.removeprefix("\ufeff")).split("\n"), 1):
        comment = physical.lstrip().startswith("#")
        if re.match(_CONFLICT, physical):
            yield from _line(parts, number - len(parts))
            parts = []
        elif physical.endswith("\\") and not comment:
            parts.append(physical.rstrip("\\"))
            continue
        yield from _line([*parts, f" {physical}" if comment else physical], number - len(parts))
        parts = []
    yield from _line(parts, number - len(parts) + 1)


def classify(line: Line) -> Named | WheelUrl | FolderLine | IncludeLine | None:
    """What a line is, None for a comment. Raises Refusal."""
    _refuse_text(line)
    if not line.text:
        return None
    if line.text.startswith("-"):
        return _option(line.text)
    later = re.search(_LATER_OPTION, line.text)
    if later:
        raise _option_refusal(later[1], line.text)
    return _requirement(line.text, number=line.number, comment=line.comment)


def dependency(item: str, *, line: int | None) -> Named | WheelUrl:
    """What one string in a list of dependencies of pyproject.toml is; ``line`` is where it stands. Raises Refusal."""
    number = line or 1
    text = item.strip()
    _refuse_text(Line(text=text, number=number, raw=item.replace("\n", " ")))
    entry = _requirement(text, number=number, comment=None)
    if isinstance(entry, FolderLine):
        hint = "name the folder in requirements.in (-e ./libs/NAME), and the project here by its name"
        raise Refusal("refused-path", "a path among dependencies", hint=hint, shown=_shown(item))
    return entry


def require_named(entry: Named | WheelUrl | FolderLine | IncludeLine, line: Line, *, what: str) -> Named:
    """The entry where it is a name with specifiers and marker, as pip wants of constraints. Raises Refusal."""
    if not isinstance(entry, Named):
        hint = "write NAME==VERSION or NAME<VERSION; what is to be installed belongs into requirements.in"
        raise Refusal("refused-line", f"{what} holds names and versions only", hint=hint, shown=_shown(line.text))
    if entry.requirement.extras:
        hint = f"write {entry.requirement.name}{entry.requirement.specifier}; extras belong into requirements.in"
        raise Refusal("refused-line", f"{what} holds no extras", hint=hint, shown=_shown(line.text))
    return entry


def canonical(requirement: Requirement) -> str:
    """One spelling for requirements that mean the same: names, extras, specifiers and markers in canonical form."""
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    name = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    body = (
        f"{name} @ {requirement.url}" if requirement.url else name + ",".join(sorted(map(str, requirement.specifier)))
    )
    return f"{body} ; {requirement.marker}" if requirement.marker else body


def masked(text: str) -> str:
    """The text with ``***`` for what may be secret in an address: user, password, query, unknown fragment."""
    hidden = re.sub(_BARE_USER, "***@", re.sub(_URL_WITH_USER, r"\1***@", text))
    return re.sub(_FRAGMENT, r"\1#***", re.sub(_QUERY, r"\1?***", hidden))


# --------------------------------------------------------------------------------------------------- from text to lines


def _line(parts: Sequence[str], number: int) -> Iterator[Line]:
    raw = "".join(parts)
    if not raw.strip(" \t"):
        return
    found = re.search(_COMMENT, raw)
    text, comment = (raw[: found.start()], raw[found.end() :].strip()) if found else (raw, None)
    torn = any(re.search(_COMMENT, part) for part in parts[:-1])
    yield Line(text=text.strip(), number=number, comment=comment, raw=raw, torn=torn)


# ------------------------------------------------------------------------------------------------------- what a line is


def _refuse_text(line: Line) -> None:
    """What no line may hold, whatever it is; in a comment only characters that would end it."""
    if control := re.search(_CONTROL, line.raw):
        message = f"a control character (U+{ord(control[0]):04X}) is refused"
        raise Refusal("refused-line", message, hint="delete it; it makes programs read different lines")
    if re.match(_CONFLICT, line.text):
        hint = "resolve the merge, then run `mlenv lock`"
        raise Refusal("conflict-marker", "a conflict marker of git was left here", hint=hint)
    if line.torn:
        hint = "delete the backslash, or put the comment on a line of its own"
        raise Refusal("refused-line", "pip and uv disagree on a comment that ends in a backslash", hint=hint)
    if len(line.text) > _LONGEST:
        raise Refusal("refused-line", "the line is too long to be a requirement", hint="is it the right file?")
    if "${" in line.text:
        hint = "write the value itself; credentials go to UV_INDEX_<NAME>_USERNAME and _PASSWORD, netrc or a keyring"
        raise Refusal("refused-variable", "environment variables are not expanded", hint=hint, shown=_shown(line.text))


def _option(text: str) -> FolderLine | IncludeLine:
    found = re.fullmatch(_OPTION, text)
    if found is None:
        raise Refusal("refused-option", "this is no requirement", hint="delete the line", shown=_shown(text))
    name, value = found["name"], found["value"].strip()
    if name in _INCLUDES:
        return _include(value, _INCLUDES[name], text)
    if name in _EDITABLE:
        return _editable(value, text)
    raise _option_refusal(name, text)


def _option_refusal(name: str, text: str) -> Refusal:
    if name in _INCLUDES or name in _EDITABLE:
        return Refusal("refused-option", f"{name} needs a line of its own", hint="split the line", shown=_shown(text))
    known = (
        name if name in _REFUSED else next((n for n in _REFUSED if name.startswith("--") and n.startswith(name)), "")
    )
    kind, hint = _REFUSED.get(known, ("refused-option", "delete it; only -r, -c and -e are understood"))
    if kind in ("refused-index", "refused-find-links") and _is_of_the_foundation(text):
        hint = "delete the line; the overlays in constraints/ and uv.toml say where torch comes from"
    return Refusal(kind, f"{known or name} is refused", hint=hint, shown=_shown(text))


def _is_of_the_foundation(text: str) -> bool:
    """Whether it names the index that the catalogue's builds come from."""
    from mlenv.catalogue import load

    return any(url.partition("/{backend}")[0] in text for url in load().index_urls.values())


def _include(value: str, kind: Kind, text: str) -> IncludeLine:
    if re.search(r"\\(?! )", value):
        raise Refusal("refused-include", "a backslash in a path", hint="write / between folders", shown=_shown(text))
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if len(words) != 1 or not words[0]:
        raise Refusal("refused-include", "one file is named here", hint="write -r PATH or -c PATH", shown=_shown(text))
    if re.match(_SCHEME, words[0]):
        hint = "copy the file into the project and name its path"
        raise Refusal("refused-include", "only files of the project are included", hint=hint, shown=_shown(text))
    return IncludeLine(path=words[0], kind=kind)


def _editable(value: str, text: str) -> FolderLine:
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        value = value[1:-1]
    if later := re.search(_LATER_OPTION, f" {value}"):
        raise _option_refusal(later[1], text)
    _refuse_address(value)
    try:
        requirement = _parsed(value)
    except Refusal:
        return _folder(value, editable=True)
    if requirement.url is None:
        return _folder(value, editable=True)
    entry = _from_url(requirement, number=0, comment=None, editable=True)
    if isinstance(entry, FolderLine):
        return entry
    raise Refusal("refused-url", "a wheel can't be editable", hint="delete -e", shown=_shown(text))


def _requirement(text: str, *, number: int, comment: str | None) -> Named | WheelUrl | FolderLine:
    """A line of PEP 508, a bare URL or a path."""
    _refuse_address(text)
    scheme = re.match(_SCHEME, text)
    if scheme and scheme[1].lower() == "file":
        return _folder(text, editable=False)
    if scheme and scheme[1].lower() in ("http", "https"):
        text = _with_name(text)
    try:
        requirement = _parsed(text)
    except Refusal:
        if _looks_like_path(text):
            return _folder(text, editable=False)
        raise
    if requirement.url is not None:
        return _from_url(requirement, number=number, comment=comment, editable=False)
    return Named(requirement=requirement, line=number, comment=comment)


def _parsed(text: str) -> Requirement:
    """The requirement, or Refusal with packaging's reason."""
    hint = 'write NAME, NAME>=1.0, NAME[extra] or NAME ; python_version < "3.12"'
    if text.count("(") > _DEEPEST:
        raise Refusal("refused-line", "too many parentheses", hint=hint)
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        reason = masked(str(error).split("\n")[0])
        reason = reason[:1].lower() + reason[1:_SHOWN]
        raise Refusal("refused-line", f"no requirement ({reason})", hint=hint, shown=_shown(text)) from None


def _refuse_address(text: str) -> None:
    """Refuse version control and credentials wherever in a line they stand."""
    if ":" not in text:  # no address is without one
        return
    if re.search(_VCS, text):
        message = "version control is refused, as it can't be hashed"
        raise Refusal("refused-vcs", message, hint=_HASHABLE, shown=_shown(text))
    if masked(text) != text:
        user = re.search(_URL_WITH_USER, text) or re.search(_BARE_USER, text)
        part = "credentials is refused" if user else "a query or fragment is refused, as it may hold a token"
        raise Refusal("refused-credentials", f"an address with {part}", hint=_WITHOUT_SECRET, shown=_shown(text))


def _with_name(text: str) -> str:
    """``https://.../x-1.0-py3-none-any.whl`` with the wheel's own name in front."""
    url = text.split()[0]
    return f"{_wheel_name(url)} @ {text}"


def _from_url(requirement: Requirement, *, number: int, comment: str | None, editable: bool) -> WheelUrl | FolderLine:
    url = requirement.url or ""
    scheme = re.match(_SCHEME, url)
    if scheme is None or scheme[1].lower() == "file":
        if requirement.marker is not None:
            raise _marker_refusal(str(requirement))
        extras = tuple(sorted(canonicalize_name(extra) for extra in requirement.extras))
        return FolderLine(
            path=_local_path(url), editable=editable, extras=extras, name=canonicalize_name(requirement.name)
        )
    name = _wheel_name(url)
    if name != canonicalize_name(requirement.name):
        message = f"the wheel is of {name}, not of {requirement.name}"
        raise Refusal("refused-url", message, hint="correct the name or the address", shown=_shown(url))
    return WheelUrl(requirement=requirement, line=number, comment=comment)


def _wheel_name(url: str) -> str:
    """The canonical name in a wheel's URL. Raises Refusal where the URL isn't one that can be hashed and trusted."""
    from urllib.parse import unquote, urlsplit  # files with URLs are rare, and imports are paid at every start

    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refusal("refused-url", "no valid address", hint=_HASHABLE, shown=_shown(url)) from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        message = "only https addresses of wheels, and folders of the project, are accepted"
        raise Refusal("refused-url", message, hint=_HASHABLE, shown=_shown(url))
    filename = unquote(parts.path).rpartition("/")[2]
    if not filename.endswith(".whl"):
        sdist = filename.endswith((".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz"))
        message = "a source distribution runs code when it is read" if sdist else "this is no wheel"
        raise Refusal("refused-url", message, hint=_HASHABLE, shown=_shown(url))
    if parts.fragment and not re.fullmatch(_SHA256, parts.fragment):
        message = "after # only sha256=<64 hexadecimal digits> is accepted"
        raise Refusal("refused-url", message, hint="delete what follows #", shown=_shown(url))
    if parts.scheme == "http" and not parts.fragment:
        hint = "write https, or add #sha256=<64 hexadecimal digits>"
        raise Refusal("refused-url", "http without a hash can be changed on the way", hint=hint, shown=_shown(url))
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename:
        hint = "take the address from the index or the release page"
        raise Refusal("refused-url", "no valid name of a wheel", hint=hint, shown=_shown(url)) from None


def _looks_like_path(text: str) -> bool:
    """pip's rule: a dot in front or a separator, before a marker."""
    return text.startswith((".", "~")) or bool(re.search(r"[/\\]", text.partition(";")[0]))


def _folder(text: str, *, editable: bool) -> FolderLine:
    """``./libs/x[extra]``, also with the ``#egg=name`` of old files."""
    if re.search(r"\s;|;\s", text):
        raise _marker_refusal(text)
    if (scheme := re.match(_SCHEME, text)) and scheme[1].lower() != "file":
        message = "only https addresses of wheels, and folders of the project, are accepted"
        raise Refusal("refused-url", message, hint=_HASHABLE, shown=_shown(text))
    found = re.fullmatch(_FOLDER, text)
    if found is None or not found["path"].strip() or "#" in found["path"]:
        raise Refusal("refused-path", "this is no path of a local project", hint=INSIDE_HINT, shown=_shown(text))
    words = [word.strip() for part in (found["extras"], found["more"]) for word in (part or "").split(",")]
    extras = sorted({canonicalize_name(word) for word in words if word})
    if not all(re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", extra) for extra in extras):
        raise Refusal("refused-path", "no valid extras", hint="write ./libs/NAME[extra,other]", shown=_shown(text))
    name = canonicalize_name(found["name"]) if found["name"] else None
    return FolderLine(path=_local_path(found["path"].strip()), editable=editable, extras=tuple(extras), name=name)


def _local_path(text: str) -> str:
    """The path in ``text``, which may be a ``file:`` URL. Raises Refusal for another machine's or system's paths."""
    if "\\" in text or re.match(r"[A-Za-z]:", text):
        raise Refusal("refused-path", "a path of Windows is refused", hint=INSIDE_HINT, shown=_shown(text))
    from urllib.parse import unquote

    path = text
    if text.lower().startswith("file:"):
        path = unquote(text[5:])
        path = path.removeprefix("//localhost") if path.startswith("//localhost/") else path
        path = path[2:] if path.startswith("///") else path
        if re.search(_CONTROL, path):
            raise Refusal("refused-path", "a control character is refused", hint=INSIDE_HINT)
    if path.startswith("//"):
        raise Refusal("refused-path", "a path on another machine is refused", hint=INSIDE_HINT, shown=_shown(text))
    return path


def _marker_refusal(text: str) -> Refusal:
    hint = "delete the marker; put it on the dependencies in that project's own pyproject.toml"
    return Refusal("refused-path", "a local project can't have a marker", hint=hint, shown=_shown(text))


def _shown(text: str) -> str:
    """What may be quoted of a line: no credentials, and of an option that isn't an address its name only."""
    option = re.search(r"(?:^|\s)(--?[A-Za-z][\w-]*)", text)
    if option and option[1] not in _OPTIONS_WITH_ADDRESS:
        text = f"{text[: option.end()]} ..." if option.end() < len(text) else text
    hidden = re.sub(_CONTROL, "\N{REPLACEMENT CHARACTER}", masked(text))
    return hidden if len(hidden) <= _SHOWN else f"{hidden[:_SHOWN]}..."
