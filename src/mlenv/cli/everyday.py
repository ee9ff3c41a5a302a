"""The command line's everyday commands on what a project requires: add, remove, tree, why, outdated, diff."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlenv.cli.common import DRY_RUN, WAIT, backend_options, command
from mlenv.session import Session

if TYPE_CHECKING:
    from mlenv.graph import Graph
    from mlenv.project import Project


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


def _graph(session: Session, project: Project, *, backend: str | None, request: str | None) -> Graph:
    """Who brings what on this machine's platform, or the lock's first one where it isn't made for this."""
    from mlenv import dependencies, selection

    machine = session.machine()
    chosen = selection.select(project, machine, backend=backend, flag=request, force=True).backend
    there = project.settings.platforms
    platform = machine.platform if machine.platform in there else there[0]
    return dependencies.of_backend(project, session.uv(), chosen, platform=platform)


@click.command("tree")
@backend_options
@click.option("--package", "packages", multiple=True, metavar="NAME", help="The tree of this package; repeatable.")
@click.option("-i", "--invert", is_flag=True, help="Who needs it, instead of what it brings.")
@click.option("-d", "--depth", type=click.IntRange(min=0), metavar="N", help="So many levels below the top.")
@command(backend=True)
def tree_command(
    session: Session,
    *,
    backend: str | None,
    request: str | None,
    packages: tuple[str, ...],
    invert: bool,
    depth: int | None,
) -> None:
    """Who brings what in one backend's environment, its foundation included; nothing has to be installed.

    It is the lock with that backend's overlay (and record), resolved from uv's cache if that can.

    \b
    mlenv tree                                  for the backend that sync would take
    mlenv tree --backend cu130 --depth 1
    mlenv tree --invert --package numpy         who needs numpy
    """
    from mlenv.commands import tree

    found = _graph(session, session.project(), backend=backend, request=request)
    session.show(tree.tree(found, packages=packages, invert=invert, depth=depth))


@click.command("why")
@click.argument("name", metavar="NAME")
@backend_options
@command(backend=True)
def why_command(session: Session, *, name: str, backend: str | None, request: str | None) -> None:
    """Every way a package comes in: from which line, by way of what, in which layer, and what pins it.

    \b
    mlenv why sympy
    mlenv why nvidia-cublas --backend cu130
    """
    from mlenv.commands import why

    project = session.project()
    session.show(why.why(project, _graph(session, project, backend=backend, request=request), name))


@click.command("outdated")
@click.option("--direct", is_flag=True, help="Direct requirements alone.")
@command()
def outdated_command(session: Session, *, direct: bool) -> None:
    """Which pins are not at the newest release, what `mlenv lock -U` would take, and what holds the rest back.

    A bound of your own is named with its line, another package's and an overlay's with their words. It only reports:
    exit status 0 whatever it finds.

    \b
    mlenv outdated
    mlenv outdated --direct
    """
    from mlenv.commands import outdated

    session.show(outdated.outdated(session.project(), session.uv(), direct=direct, progress=session.progress))


@click.command("diff")
@click.argument("one", metavar="A")
@click.argument("other", metavar="[B]", required=False)
@command()
def diff_command(session: Session, *, one: str, other: str | None) -> None:
    """What differs between two locks: packages, hashes, backends and their torch; exit status 1 where anything does.

    A and B are lock files, or revisions that git knows (HEAD~3, main, REVISION:PATH); without B it is the lock as it
    is now.

    \b
    mlenv diff HEAD                     what the last `mlenv lock` changed
    mlenv diff v1.0 main                between two revisions
    mlenv diff old.txt requirements.txt
    """
    from mlenv.commands import diff

    session.show(diff.diff(session.project(), one, other))


COMMANDS = (add_command, remove_command, tree_command, why_command, outdated_command, diff_command)
