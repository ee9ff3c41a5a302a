"""The command line's everyday commands on what a project requires: add, remove, tree, why, outdated, diff."""

from __future__ import annotations

import click

from mlenv.cli_common import DRY_RUN, WAIT, command
from mlenv.session import Session


@click.command("add")
@click.argument("requirements", nargs=-1, required=True, metavar="REQ...")
@DRY_RUN
@WAIT
@command()
def add_command(session: Session, *, requirements: tuple[str, ...], dry_run: bool, wait: float) -> None:
    """Add requirements to requirements.in, then lock; where no lock can be made, nothing is written.

    A name that is there keeps its line, comment and marker, and gets the new specifier; in a file that is included it
    is edited there. A bare NAME is written as it is: the lock pins it. Where requirements = ["pyproject.toml"], that
    file's [project] dependencies are edited.

    \b
    mlenv add transformers                the newest that fits every overlay
    mlenv add 'transformers>=5' peft      bounded; several
    mlenv add --dry-run vllm              what it would change
    """
    from mlenv.commands import add_remove

    session.show(
        add_remove.add(
            session.project(), session.uv(), requirements, dry_run=dry_run, wait=wait, progress=session.progress
        )
    )


@click.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@DRY_RUN
@WAIT
@command()
def remove_command(session: Session, *, names: tuple[str, ...], dry_run: bool, wait: float) -> None:
    """Take requirements out of the files they stand in, then lock; where no lock can be made, nothing is written.

    \b
    mlenv remove peft
    """
    from mlenv.commands import add_remove

    session.show(
        add_remove.remove(session.project(), session.uv(), names, dry_run=dry_run, wait=wait, progress=session.progress)
    )


COMMANDS = (add_command, remove_command)
