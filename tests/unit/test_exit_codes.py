"""The exit codes are the contract's, each number stands in one place, and an error says where and what next."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import unique
from pathlib import Path

import click
import pytest

from mlenv import cli, errors
from mlenv.errors import ExitCode, MlenvError

CONTRACT = {
    "DONE": 0,
    "FINDING": 1,
    "USAGE": 2,
    "PROJECT": 3,
    "NO_BACKEND": 4,
    "RESOLUTION": 5,
    "INDEX": 6,
    "INTEGRITY": 7,
    "ENVIRONMENT": 8,
    "BUSY": 9,
    "FAULT": 70,
    "NOT_STARTED": 126,
    "NOT_FOUND": 127,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}
CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MlenvError) and kind is not MlenvError
]


def test_the_numbers_are_the_contracts() -> None:
    assert {code.name: code.value for code in ExitCode} == CONTRACT


def test_no_number_is_used_twice() -> None:
    unique(ExitCode)  # raises ValueError for an alias
    assert len(ExitCode.__members__) == len(set(ExitCode.__members__.values()))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_and_says_what_it_means(kind: type[MlenvError]) -> None:
    assert kind.code in ExitCode
    assert kind.meaning
    assert kind.__doc__


def test_every_code_of_an_error_has_one_meaning() -> None:
    meanings = {(kind.code, kind.meaning) for kind in CLASSES}
    ended_otherwise = {ExitCode.DONE, ExitCode.INTERRUPTED, ExitCode.TERMINATED}
    assert len(meanings) == len({code for code, _ in meanings})
    assert {code for code, _ in meanings} == set(ExitCode) - ended_otherwise


def test_numbers_are_written_in_one_module_only() -> None:
    """Elsewhere codes are named, so that no second table can drift from the first."""
    source = Path(errors.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py") if path.name != "errors.py"}
    assert not [path for path, text in texts.items() if "sys.exit(" in text or "SystemExit(1" in text]


@pytest.mark.parametrize(
    ("path", "line", "shown"),
    [(None, None, "wrong"), ("uv.toml", None, "uv.toml: wrong"), (Path("a/b.in"), 3, "a/b.in:3: wrong")],
)
def test_an_error_says_where(path: Path | str | None, line: int | None, shown: str) -> None:
    assert str(MlenvError("wrong", path=path, line=line)) == shown


def _options(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _options(below)


@pytest.mark.parametrize(("name", "told"), [("CU130", "did you mean cu130?"), ("", "such as cpu or cu130")])
def test_a_word_that_can_be_no_backend_is_wrong_usage(name: str, told: str) -> None:
    options = [option for option in _options(cli.cli) if "--backend" in option.opts and option.metavar == "B"]
    assert len(options) > 5
    for option in options:
        with pytest.raises(click.BadParameter, match=re.escape(told)):
            option.type.convert(name, option, None)
        assert option.type.convert("rocm7.1", option, None) == "rocm7.1"
