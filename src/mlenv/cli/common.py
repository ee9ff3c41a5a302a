"""What every command has: its session, its options, and the one place that maps exceptions to exit codes.

The other modules beside this one declare the commands, by what they are for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mlenv.errors import ExitCode, FaultError, MlenvError, UsageError
from mlenv.location import BACKEND
from mlenv.session import Session

ISSUES = "this is a fault of mlenv; run again with -vv and report what it prints"
_WHOLE = "the lock and the environment are whole: the old one, or the new one"


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: unwind, so that children end and half-built folders go."""


COMMON: tuple[Callable[..., Any], ...] = (
    click.option(
        "--project", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Work on the project in DIR."
    ),
    click.option("--member", metavar="NAME", help="Of a workspace: work on this member (its name, folder or package)."),
    click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong."),
    click.option("-v", "--verbose", count=True, help="Say more; -vv adds tracebacks."),
    click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="When to use colour."),
    click.option("--offline", is_flag=True, help="Use uv's cache and no network."),
)
_REPORTING: tuple[Callable[..., Any], ...] = (
    click.option("--json", "json", is_flag=True, help="Report as JSON on standard output."),
    click.option(
        "--output-format",
        type=click.Choice(["text", "json", "github"]),
        default="text",
        help="text, json, or annotations for GitHub Actions.",
    ),
)
_MACHINE = click.option(
    "--machine",
    "machine_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,  # more than one is told, instead of the last one winning
    help="Judge this machine instead: what `mlenv detect --json` printed on it; - is standard input.",
)


def command(
    *, reports: bool = True, backend: bool = False, machine: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options every command has, and a Session as its first argument.

    With ``backend`` it gets what ``--cuda13`` and the like ask for as ``request``. With ``machine`` it takes
    ``--machine FILE``, which the session obeys.
    """

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def call(**options: Any) -> None:
            shared = ("folder", "member", "quiet", "verbose", "color", "offline", "json", "output_format")
            session = Session(**_shared({name: options.pop(name) for name in shared if name in options}))
            described = options.pop("machine_file", ())
            _guarded(session, lambda: _describe(session, described))
            asked = options.pop("asked", [])
            if backend:
                _guarded(session, lambda: function(session, request=_one_request(asked), **options))
            else:
                _guarded(session, lambda: function(session, **options))

        options = (*((_MACHINE,) if machine else ()), *COMMON, *(_REPORTING if reports else ()))
        for option in reversed(options):
            call = option(call)
        return call

    return wrap


def _describe(session: Session, files: tuple[Path, ...]) -> None:
    """``--machine FILE``: the machine that this call judges. Raises UsageError for several."""
    if len(files) > 1:
        raise UsageError(
            "--machine is given more than once, and this command judges one machine",
            hint="`mlenv lock --machine A --machine B`, and `mlenv fleet check A B`, take several",
        )
    session.machine_file = files[0] if files else None


def _shared(own: dict[str, Any]) -> dict[str, Any]:
    """The options every command has, given behind the command or before it."""
    before = click.get_current_context().find_root().obj or {}
    return {
        name: before.get(name) or value if value in (None, False, 0, "auto", "text") else value
        for name, value in own.items()
    }


def _guarded(session: Session, call: Callable[[], None]) -> None:
    """The one place that maps exceptions to exit codes."""
    try:
        call()
    except MlenvError as error:
        session.fail(error)
    except KeyboardInterrupt:
        ignore_signals()
        session.stopped(f"interrupted; {_WHOLE}", int(ExitCode.INTERRUPTED))
    except Terminated:
        ignore_signals()
        session.stopped(f"terminated; {_WHOLE}", int(ExitCode.TERMINATED))
    except Exception as error:
        fault = FaultError(f"{type(error).__name__}: {error}", hint=ISSUES)
        fault.__cause__ = error
        session.fail(fault)


def backend_name(text: str) -> str:
    """The name of a backend, as an overlay's file can have it."""
    import re

    if re.fullmatch(BACKEND, text) is None:
        near = text.strip().lower()
        meant = f"did you mean {near}?" if re.fullmatch(BACKEND, near) else "it is a word such as cpu or cu130"
        raise click.BadParameter(f"{text!r} is no backend; {meant}")
    return text


PATHS = click.Path(path_type=Path)
BACKENDS = click.option(
    "--backend", "backends", multiple=True, type=backend_name, metavar="B", help="This backend only; repeatable."
)
NIGHTLY = click.option("--nightly", is_flag=True, help="The nightly channel.")
DRY_RUN = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
WAIT = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=600.0,
    metavar="SECONDS",
    show_default=True,
    help="Wait for another mlenv.",
)


def given(context: click.Context, *, without: Collection[str]) -> list[str]:
    """The options that the command line gave, as words for another call; those of the names ``without`` left out."""
    words = [f"--{word}" for word in context.params.get("asked", ())]
    for option in context.command.params:
        name = option.name or ""
        if name in without or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value, word = context.params.get(name), option.opts[-1]
        if isinstance(option, click.Option) and (option.is_flag or option.count):
            words += [word] * int(value or 0)
        elif option.multiple if isinstance(option, click.Option) else False:
            words += [text for one in value or () for text in (word, str(one))]
        elif value is not None:
            words += [word, str(value)]
    return words


def _request(word: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A flag that asks for a kind of backend; two different ones contradict each other."""

    def take(context: click.Context, _: click.Parameter, given: object) -> None:
        if given:
            context.params.setdefault("asked", []).append(word)

    return click.option(f"--{word}", is_flag=True, expose_value=False, callback=take, help=text)


def _one_request(asked: list[str]) -> str | None:
    if len(asked) > 1:
        flags = " and ".join(f"--{word}" for word in asked)
        raise UsageError(f"{flags} each choose a backend", hint="give one of them")
    return asked[0] if asked else None


def backend_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that choose one backend; what the flags ask for reaches the command as ``request``."""
    named = click.option("--backend", type=backend_name, metavar="B", help="This backend: cpu, cu126, cu130, ...")
    return named(request_flags(function))


def request_flags(function: Callable[..., None]) -> Callable[..., None]:
    """The flags that ask for a kind of backend, which reaches the command as ``request``."""
    options = (
        _request("cuda13", "The newest CUDA 13 backend that runs here."),
        _request("cuda12", "The newest CUDA 12 backend that runs here."),
        _request("cpu", "The CPU backend."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def ignore_signals() -> None:
    """The exit status is decided: a second Ctrl-C while Python ends would turn it into a signal's."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            with suppress(ValueError):  # not the main thread
                signal.signal(number, signal.SIG_IGN)
