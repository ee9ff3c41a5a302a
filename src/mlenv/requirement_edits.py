"""Add, replace and take out requirements in the text of a file; every other byte stays as it is. Pure.

A file is lines (``requirements.in``) or ``[project] dependencies`` of a pyproject.toml. tomlkit keeps neither the
quotes of what it replaces nor every layout of an array, so the array's strings are looked up in the text, and what
comes out is parsed again before it counts.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlenv.errors import UsageError
from mlenv.requirement_lines import Line, Named, Refusal, WheelUrl, classify, dependency, logical_lines
from mlenv.values import dataclass

_PHYSICAL = r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z"
_PARTS = r"""(?sx)(?P<head>\s*[A-Za-z0-9][A-Za-z0-9._-]*)(?P<extras>\s*\[[^\]]*\])?
    (?P<gap>\s*)(?P<specifier>[^;]*?)(?P<rest>\s*(?:;.*)?)"""
_PROJECT = r"(?m)^[ \t]*\[[ \t]*project[ \t]*\][ \t]*(?:#[^\n]*)?$"
_ARRAY = r"(?m)^[ \t]*dependencies[ \t]*=[ \t]*\["
_TOKEN = r"""(?s)(?P<string>(?!"{3}|'{3})(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'))|(?P<comma>,)|(?P<end>\])|\#[^\n]*|\s+"""
_REST_OF_LINE = r"[ \t]*(?:#[^\r\n]*)?(?=\r?\n)"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One requirement that an edit writes, replaces or takes out; ``line`` is where, in the new text (1-based).

    ``before`` is None for a new one, ``after`` for one that is gone. Equal ones were there already.
    """

    line: int
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A requirement of the command line; ``text`` as it was typed."""

    text: str
    requirement: Requirement

    @property
    def name(self) -> str:
        """The canonical name."""
        return canonicalize_name(self.requirement.name)

    @property
    def bare(self) -> bool:
        """Whether it is a name and nothing else."""
        asked = self.requirement
        return not (asked.specifier or asked.extras or asked.url or asked.marker)


def asked(text: str) -> Asked:
    """What the command line asks for, if a requirements file may hold it. Raises UsageError in that file's words."""
    lines = list(logical_lines(text))
    if len(lines) != 1 or not lines[0].text:
        raise UsageError(f"{text!r} is no requirement", hint="for example: mlenv add 'transformers>=5'")
    try:
        entry = classify(lines[0])
    except Refusal as refusal:
        raise UsageError(refusal.message, hint=refusal.hint) from None
    if not isinstance(entry, Named | WheelUrl):
        hint = f"write a line into requirements.in: -e {lines[0].text}"
        raise UsageError("a folder or another file is no requirement with a name", hint=hint)
    text = lines[0].text
    named = isinstance(entry, Named) or "@" in text.split("://")[0]
    return Asked(text=text if named else str(entry.requirement), requirement=entry.requirement)


def bare_name(text: str) -> str:
    """The canonical name that the command line gives, and nothing beside it. Raises UsageError."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        requirement = None
    if requirement is None or requirement.url or requirement.specifier or requirement.marker or requirement.extras:
        raise UsageError(f"{text!r} is no name", hint="for example: mlenv remove transformers")
    return canonicalize_name(requirement.name)


def added(text: str, wanted: Asked, *, toml: bool = False) -> tuple[str, Change]:
    """The text with the requirement, and what that changed.

    Where its name is there, its specifier and extras are put into that line; a bare name changes nothing then. Of
    several lines for one name that with its marker is meant. A new one gets its sorted place where the file is sorted,
    else the end. Raises UsageError where several lines may be meant, or the file's layout is not understood.
    """
    file = _array(text) if toml else _lines(text)
    there = [item for item in file.items if canonicalize_name(item.requirement.name) == wanted.name]
    marker = wanted.requirement.marker
    if (marker is not None or len(there) > 1) and not wanted.bare:
        meant = [item for item in there if item.requirement.marker == marker]
        if not meant and marker is None:
            lines = " and ".join(str(file.line_of(item)) for item in there)
            told = f"{wanted.name} is there more than once, in lines {lines}"
            raise UsageError(told, hint="say which with its marker, or edit the file")
        there = meant
    if not there:
        return file.with_new(wanted)
    item = there[0]
    new = _merged(item.text, item.requirement, wanted)
    return file.with_instead(item, new)


def removed(text: str, name: str, *, toml: bool = False) -> tuple[str, tuple[Change, ...]]:
    """The text without every requirement of that (canonical) name, and what was taken out. Raises UsageError."""
    gone: list[Change] = []
    while True:
        file = _array(text) if toml else _lines(text)
        there = [item for item in file.items if canonicalize_name(item.requirement.name) == name]
        if not there:
            return text, tuple(reversed(gone))
        text, change = file.without(there[-1])
        gone.append(change)


def _merged(old: str, was: Requirement, wanted: Asked) -> str:
    """The old requirement's text with the specifier that is asked for, if any, and the extras of both."""
    new = wanted.requirement
    marker = f" ; {was.marker}" if was.marker is not None and new.marker is None else ""
    if new.url is not None:
        return wanted.text if was.url == new.url and was.marker == new.marker else wanted.text + marker
    if was.url is not None:
        return f"{wanted.text}{marker}" if new.specifier else old
    parts, asked_parts = _parts(old), _parts(wanted.text)
    extras = parts["extras"] or ""
    if missing := sorted(new.extras - was.extras):
        extras = f"[{','.join([*sorted(was.extras), *missing])}]"
    if not new.specifier or new.specifier == was.specifier:
        return f"{parts['head']}{extras}{parts['gap']}{parts['specifier']}{parts['rest']}"
    before, behind = (parts["gap"], "") if parts["specifier"] else ("", parts["gap"])
    return f"{parts['head']}{extras}{before}{asked_parts['specifier']}{behind}{parts['rest']}"


def _parts(text: str) -> Mapping[str, str]:
    found = re.fullmatch(_PARTS, text)
    assert found is not None, text  # it was parsed as a requirement
    return found.groupdict()


def _place(names: Sequence[str], name: str) -> int | None:
    """Before which of the names a new one belongs; None where they are in no order."""
    return bisect(names, name) if all(one <= other for one, other in pairwise(names)) else None


# --------------------------------------------------------------------------------------------------- requirements files


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A requirement and where it stands: ``start`` and ``end`` of its line, or of its string, in the text."""

    text: str
    requirement: Requirement
    start: int
    end: int
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class _File:
    """The text of a file with its requirements in order."""

    text: str
    items: tuple[_Item, ...]

    @property
    def names(self) -> list[str]:
        return [canonicalize_name(item.requirement.name) for item in self.items]

    @property
    def newline(self) -> str:
        """How the file ends its lines."""
        found = re.search(r"\r\n|\n|\r", self.text)
        return found[0] if found else "\n"

    def line_of(self, item: _Item) -> int:
        """The number of its line."""
        return _line_at(self.text, item.start)


def _line_at(text: str, position: int) -> int:
    return len(re.findall(r"\r\n|\r|\n", text[:position])) + 1


class _Lines(_File):
    """A requirements file: an item is a logical line, its line end included."""

    def with_new(self, wanted: Asked) -> tuple[str, Change]:
        place = _place(self.names, wanted.name)
        if place is None or place == len(self.items):
            position = self.items[-1].end if place else _end(self.text)
        else:
            position = self.items[place - 1].end if place else self.items[0].start
        before, after = self.text[:position], self.text[position:]
        glue = "" if not before.strip("\ufeff") or before.endswith(("\n", "\r")) else self.newline
        if _continues(re.findall(_PHYSICAL, before or "\n")[-1]):  # and nothing follows that it could continue with
            glue += self.newline
        line = _line_at(before + glue, len(before + glue))
        text = f"{before}{glue}{wanted.text}{self.newline}{after}"
        return text, Change(line=line, before=None, after=wanted.text)

    def with_instead(self, item: _Item, new: str) -> tuple[str, Change]:
        change = Change(line=self.line_of(item), before=item.text.strip(), after=new.strip())
        if new == item.text:
            return self.text, change
        ending = re.search(r"(?:\r\n|\r|\n)?\Z", self.text[item.start : item.end])
        assert ending is not None
        text = f"{self.text[: item.start]}{new}{item.comment}{ending[0]}{self.text[item.end :]}"
        return text, change

    def without(self, item: _Item) -> tuple[str, Change]:
        change = Change(line=self.line_of(item), before=item.text.strip(), after=None)
        return self.text[: item.start] + self.text[item.end :], change


def _lines(text: str) -> _Lines:
    """The file's requirements; lines that are none (includes, folders, comments, what is refused) are passed over."""
    physical = re.findall(_PHYSICAL, text)
    starts = [0]
    for part in physical:
        starts.append(starts[-1] + len(part))
    items = []
    for line in logical_lines(text):
        try:
            entry = classify(line)
        except Refusal:
            continue
        if isinstance(entry, Named | WheelUrl):
            start = starts[line.number - 1] + (1 if line.number == 1 and text.startswith("\ufeff") else 0)
            code, comment = _split(line)
            end = starts[line.number - 1 + _height(physical, line.number - 1)]
            items.append(_Item(text=code, requirement=entry.requirement, start=start, end=end, comment=comment))
    return _Lines(text=text, items=tuple(items))


def _split(line: Line) -> tuple[str, str]:
    """The line's code and, with the white space before it, its comment; together all of the line."""
    if line.comment is None:
        return line.raw.rstrip(), line.raw[len(line.raw.rstrip()) :]
    found = re.search(r"\s+#", line.raw)
    assert found is not None  # a requirement is in front of it
    return line.raw[: found.start()], line.raw[found.start() :]


def _height(physical: Sequence[str], first: int) -> int:
    """How many physical lines the logical line that begins at ``first`` has."""
    for number in range(first, len(physical)):
        if not _continues(physical[number]):
            return number - first + 1
    return len(physical) - first


def _continues(physical: str) -> bool:
    """Whether a physical line goes on in the next one."""
    bare = physical.removeprefix("\ufeff").rstrip("\r\n")
    return bare.endswith("\\") and not bare.lstrip().startswith("#")


def _end(text: str) -> int:
    """Where a line can be appended: after the last one that isn't blank."""
    kept = text.rstrip()
    rest = re.match(r"[ \t\f\v]*(?:\r\n|\r|\n)?", text[len(kept) :])
    assert rest is not None
    return len(kept) + rest.end()


# --------------------------------------------------------------------------------------- dependencies of pyproject.toml


class _Array(_File):
    """``[project] dependencies``: an item is a string, its quotes included."""

    def with_new(self, wanted: Asked) -> tuple[str, Change]:
        place = _place(self.names, wanted.name)
        place = len(self.items) if place is None else place
        quoted = _quoted(wanted.text, like=self.text[self.items[max(place - 1, 0)].start] if self.items else '"')
        start, end, written = self._inserted(place, quoted)
        text = self._checked(self.text[:start] + written + self.text[end:], place, place, [wanted.text])
        line = _line_at(text, start + written.rindex(quoted))
        return text, Change(line=line, before=None, after=wanted.text)

    def with_instead(self, item: _Item, new: str) -> tuple[str, Change]:
        change = Change(line=self.line_of(item), before=item.text.strip(), after=new.strip())
        if new == item.text:
            return self.text, change
        quoted = _quoted(new, like=self.text[item.start])
        index = self.items.index(item)
        text = self.text[: item.start] + quoted + self.text[item.end :]
        return self._checked(text, index, index + 1, [new]), change

    def without(self, item: _Item) -> tuple[str, Change]:
        index = self.items.index(item)
        change = Change(line=self.line_of(item), before=item.text.strip(), after=None)
        start, end = self._span(index)
        return self._checked(self.text[:start] + self.text[end:], index, index + 1, []), change

    def _inserted(self, place: int, quoted: str) -> tuple[int, int, str]:
        """What a new string takes the place of, from where to where, and what is written there."""
        if not self.items:
            start = _opening(self.text)
            several = "\n" in self.text[start : _closing(self.text, start)]
            return start, start, f"{self.newline}    {quoted}," if several else quoted
        if place == 0:
            first = self.items[0]
            return first.start, first.start, f"{quoted},{self._gap(first)}"
        last = self.items[place - 1]
        comma = _comma(self.text, last.end)
        gap = self._gap(last)
        end = last.end if comma is None else comma + 1
        rest = re.match(_REST_OF_LINE, self.text[end:]) if "\n" in gap or "\r" in gap else None
        behind = rest[0] if rest is not None and rest[0].strip() else ""
        if comma is None:  # what was the last one gets it
            return end, end + len(behind), f",{behind}{gap}{quoted}"
        return end + len(behind), end + len(behind), f"{gap}{quoted},"

    def _gap(self, item: _Item) -> str:
        """What separates strings: the line end and indentation before this one where it begins a line, else a space."""
        start = max(self.text.rfind("\n", 0, item.start), self.text.rfind("\r", 0, item.start)) + 1
        indentation = self.text[start : item.start]
        return " " if indentation.strip() else self.newline + indentation

    def _span(self, index: int) -> tuple[int, int]:
        """What goes with a string: its comma, and its line where that holds nothing else but a comment."""
        item = self.items[index]
        comma = _comma(self.text, item.end)
        end = item.end if comma is None else comma + 1
        start = max(self.text.rfind("\n", 0, item.start), self.text.rfind("\r", 0, item.start)) + 1
        rest = re.match(_REST_OF_LINE, self.text[end:])
        if not self.text[start : item.start].strip() and rest is not None:
            ending = re.match(r"\r\n|\r|\n", self.text[end + rest.end() :])
            return start, end + rest.end() + (len(ending[0]) if ending else 0)
        if comma is None and index:
            return self.items[index - 1].end, item.end
        space = re.match(r"[ \t]*", self.text[end:])
        return item.start, end + (len(space[0]) if space else 0)

    def _checked(self, text: str, start: int, end: int, new: Sequence[str]) -> str:
        """The new text, where it says what it should and nothing else changed. Raises UsageError."""
        strings = [item.text for item in self.items]
        expected = _parsed(self.text)
        expected["project"]["dependencies"] = [*strings[:start], *new, *strings[end:]]
        if _parsed(text) != expected:
            raise _by_hand()
        return text


def _array(text: str) -> _Array:
    """The strings of ``[project] dependencies``. Raises UsageError where they aren't found in the text."""
    project = _parsed(text).get("project", {})
    if "dependencies" not in project:
        text = _with_empty_array(text)
    listed = project.get("dependencies", [])
    position = _opening(text)
    strings = [(found, _parsed(f"x = {found[0]}")["x"]) for found in _tokens(text, position) if found["string"]]
    if [value for _, value in strings] != listed:
        raise _by_hand()
    items = [_string(found, value) for found, value in strings]
    return _Array(text=text, items=tuple(items))


def _string(found: re.Match[str], value: str) -> _Item:
    requirement = dependency(value, line=None).requirement
    return _Item(text=value, requirement=requirement, start=found.start(), end=found.end())


def _tokens(text: str, position: int) -> list[re.Match[str]]:
    """The array's tokens from after its bracket to the closing one. Raises UsageError where there are others."""
    tokens: list[re.Match[str]] = []
    while (found := re.compile(_TOKEN).match(text, position)) is not None:
        tokens.append(found)
        if found["end"]:
            return tokens
        position = found.end()
    raise _by_hand()


def _opening(text: str) -> int:
    """The position after the array's bracket."""
    table = re.search(_PROJECT, text.replace("\r\n", " \n"))
    array = re.compile(_ARRAY).search(text, table.end()) if table else None
    if array is None:
        raise _by_hand()
    return array.end()


def _with_empty_array(text: str) -> str:
    """The text with ``dependencies = []`` at the end of ``[project]``. Raises UsageError where that isn't there."""
    table = re.search(_PROJECT, text.replace("\r\n", " \n"))
    if table is None:
        raise _by_hand()
    following = re.compile(r"(?m)^[ \t]*\[").search(text, table.end())
    section = text[: following.start() if following else len(text)].rstrip()
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{section}{newline}dependencies = []{text[len(section) :] or newline}"


def _closing(text: str, position: int) -> int:
    return _tokens(text, position)[-1].start()


def _comma(text: str, position: int) -> int | None:
    """The comma that follows a string, None where the array ends first."""
    for found in _tokens(text, position):
        if found["comma"]:
            return found.start()
        if found["end"]:
            return None
    return None


def _quoted(text: str, *, like: str) -> str:
    """A TOML string, in the quotes of ``like`` where the text allows it."""
    if "'" not in text and (like == "'" or '"' in text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def _parsed(text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise _by_hand() from None


def _by_hand() -> UsageError:
    message = "[project] dependencies are written in a way that can't be edited here"
    return UsageError(message, hint="edit pyproject.toml, then run `mlenv lock`")


def is_toml(path: str) -> bool:
    """Whether requirements stand in a file as ``[project] dependencies``."""
    return Path(path).name == "pyproject.toml"
