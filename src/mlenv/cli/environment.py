"""The command line's commands on an environment that is there: check, rollback, generations, run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlenv.cli.common import WAIT, backend_options, command
from mlenv.session import Session

if TYPE_CHECKING:
    pass


_ENV = click.option(
    "--env", "environment", metavar="PATH", type=click.Path(path_type=Path), help="The environment at PATH, not .venv."
)


@click.command("check")
@backend_options
@_ENV
@click.option("--deep", is_flag=True, help="Read and hash every file: finds an edit that kept size and time.")
@click.option("--repair", is_flag=True, help="Build it anew where something is wrong, uv's cache healed too.")
@WAIT
@command(backend=True)
def check_command(
    session: Session,
    *,
    backend: str | None,
    request: str | None,
    environment: Path | None,
    deep: bool,
    repair: bool,
    wait: float,
) -> None:
    """The gate on the environment as it stands: what drifted, was damaged or replaced, by name.

    \b
    mlenv check            exit 0 if whole, 1 with each finding named
    mlenv check --deep     every file hashed: seconds for gigabytes
    mlenv check --repair   built anew from its own plan, then swapped in; what you installed by hand goes
    mlenv check --cuda13   where environment = ".venv-{backend}": the one for CUDA 13
    """
    from mlenv import selection
    from mlenv.commands import check

    project = session.project()
    place = selection.standing(project, backend=backend, flag=request, asked=environment)
    asked = check.Request(environment=place, deep=deep, wait=wait)
    if repair:
        session.show(check.repair(project, session.uv(), session.machine(), asked, progress=session.progress))
    session.show(check.check(project, session.machine(), asked))


@click.command("rollback")
@click.argument("to", required=False, metavar="[ID]")
@backend_options
@_ENV
@WAIT
@command(backend=True)
def rollback_command(
    session: Session, *, to: str | None, backend: str | None, request: str | None, environment: Path | None, wait: float
) -> None:
    """Put the previous generation of the environment back, in one step; with a backend, the previous one of that.

    Asked again, it goes back further. A generation that somebody changed since it was built is built anew from its
    plan. The lock and the overlays stay as they are: `mlenv sync` goes forward again.

    
    mlenv rollback                       the one before
    mlenv rollback cu130-0a4f6f2b3c1d    this one; the beginning of the id is enough
    """
    from mlenv import selection
    from mlenv.commands import rollback

    project = session.project()
    place = selection.standing(project, backend=backend, flag=request, asked=environment)
    asked = rollback.Request(environment=place, to=to, wait=wait)
    session.show(rollback.rollback(project, session.uv(), session.machine(), asked, progress=session.progress))


@click.command("generations")
@click.option("--remove", metavar="ID", multiple=True, help="Remove this one, if nothing uses it; repeatable.")
@backend_options
@_ENV
@WAIT
@command(backend=True)
def generations_command(
    session: Session,
    *,
    remove: tuple[str, ...],
    backend: str | None,
    request: str | None,
    environment: Path | None,
    wait: float,
) -> None:
    """The finished builds of the project's environments: what each holds, when it was built, what it takes.

    "of it alone" is what removing it would free: the rest are hard links into uv's cache.

    
    mlenv generations           a table, the newest first
    mlenv generations --json    with every package and the digest of every input
    mlenv generations --cuda13  those of one backend
    mlenv generations --remove cu130-0a4f6f2b3c1d    before it is a week old; never one in use
    """
    from mlenv import selection
    from mlenv.commands import generations

    project = session.project()
    if backend or request:
        place = selection.standing(project, backend=backend, flag=request, asked=environment)
    else:  # all of them, whichever backend this machine gets
        place = selection.environment(project, None, asked=environment)
    if remove:
        session.show(generations.remove(project, place, remove, wait=wait, progress=session.progress))
    session.show(generations.generations(project, place))


@click.command("run", context_settings={"allow_interspersed_args": False})
@backend_options
@click.option(
    "--env", "environment", metavar="PATH", type=click.Path(path_type=Path), help="Run in PATH instead of .venv."
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
@command(reports=False, backend=True)
def run_command(
    session: Session,
    *,
    backend: str | None,
    request: str | None,
    environment: Path | None,
    words: tuple[str, ...],
) -> None:
    """Run a command in the environment; the exit status is the command's own (127 where there is none, as in a shell).

    The environment it was started in stays as long as it runs, whatever `mlenv sync` does meanwhile (but with layout =
    "directory"). In a read-only project it runs in the finished generation for this machine's backend.

    \b
    mlenv run -- python train.py
    mlenv run -- jupyter lab
    mlenv run --cpu -- pytest    where environment = ".venv-{backend}": in that for the CPU
    """
    from mlenv import selection
    from mlenv.commands import run

    project = session.project()
    place = selection.standing(project, backend=backend, flag=request, asked=environment)
    raise SystemExit(run.run(project, place, words))


COMMANDS = (
    check_command,
    rollback_command,
    generations_command,
    run_command,
)
