"""The command line: parse arguments, call one command, show its outcome, exit.

Only ``session`` and this module print and exit. Everything a command needs is imported when that command runs, because
imports are paid at every start.
"""

from __future__ import annotations

import gc
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn

import click

from mlenv import __version__
from mlenv.cli import environment, everyday, foundation, lock, sync
from mlenv.cli.common import COMMON, Terminated, ignore_signals
from mlenv.errors import ExitCode, UsageError
from mlenv.session import Session, silence


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mlenv")
@click.pass_context
def cli(context: click.Context, /, **shared: object) -> None:
    """One hashed application lock, proven on every CUDA build; environments that are never half-built.

    \b
    A first time:     mlenv init          overlays, indexes and settings
                      mlenv lock          requirements.in → requirements.txt
                      mlenv sync          foundation + lock → .venv
    Every day:        mlenv add transformers
                      mlenv sync --cuda13
                      mlenv lock --upgrade-package transformers
                      mlenv run -- python train.py

    Shell completion: eval "$(_MLENV_COMPLETE=bash_source mlenv)"  (or zsh_source, fish_source)
    """
    context.obj = shared


for _option in reversed(COMMON):
    cli = _option(cli)
for _module in (lock, sync, environment, everyday, foundation):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def _on_terminate(number: int, frame: object) -> None:
    del number, frame
    raise Terminated


def main() -> None:
    """The console script."""
    gc.disable()  # a short life: looking for garbage costs a tenth of it
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            with suppress(ValueError):  # not the main thread
                signal.signal(number, _on_terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that can't show a sign, a file name that is no UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli(prog_name="mlenv", standalone_mode=False)
    except click.ClickException as error:
        _misused(error)
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except Terminated:
        raise SystemExit(int(ExitCode.TERMINATED)) from None
    except BrokenPipeError:
        silence(sys.stdout)
        code = 0
    finally:
        ignore_signals()
    raise SystemExit(code)


def _misused(error: click.ClickException) -> NoReturn:
    """Wrong usage, in the form of every other error; a bare ``mlenv`` gets its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        raise SystemExit(int(ExitCode.USAGE))
    context = getattr(error, "ctx", None)
    hint = f"`{context.command_path if context else 'mlenv'} --help` shows what it takes"
    if isinstance(error, click.NoSuchOption) and context is not None and context.command is environment.run_command:
        hint = f"an option of the command stands behind it: `mlenv run -- CMD {error.option_name}`"
    session = Session(json="--json" in sys.argv[1:])
    session.fail(UsageError(error.format_message(), hint=hint))
