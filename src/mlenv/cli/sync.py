"""The command line's commands that make environments: sync, workspace, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlenv.cli.common import BACKENDS, DRY_RUN, NIGHTLY, PATHS, WAIT, backend_options, command, given, request_flags
from mlenv.cli.lock import lock_command
from mlenv.errors import UsageError
from mlenv.session import Session

if TYPE_CHECKING:
    from mlenv.backend import Choice
    from mlenv.machine import Machine
    from mlenv.project import Project
    from mlenv.sync_options import SyncOptions


@click.command("sync")
@backend_options
@click.option("--nightly", is_flag=True, help="The foundation, and nothing else, from the nightly channel.")
@click.option("--force", is_flag=True, help="Take the backend asked for even if this machine can't run it.")
@DRY_RUN
@click.option("--check", is_flag=True, help="Exit 1 where its packages differ (for files: mlenv check).")
@click.option("--rebuild", is_flag=True, help="Build anew even if nothing changed.")
@click.option("--locked", is_flag=True, help="Never write a lock (the default where CI is set).")
@click.option(
    "--with", "extras", multiple=True, metavar="REQ", help="A personal addition, for this environment only; repeatable."
)
@click.option("--python", metavar="PYTHON", help="A version (3.11) or the path of an interpreter.")
@click.option(
    "--env", "environment", metavar="PATH", type=click.Path(path_type=Path), help="Build at PATH instead of .venv."
)
@click.option("--image", is_flag=True, help="For an image build: one fixed folder at --env, no generations.")
@click.option(
    "--only",
    type=click.Choice(["foundation", "application"]),
    help="With --image: one of its two layers, the foundation first.",
)
@click.option(
    "--verify",
    type=click.Choice(["auto", "metadata", "import", "gpu", "none"]),
    default="auto",
    show_default=True,
    help="How far the gate goes.",
)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Generations that stay.  [default: 3]")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="requirements-NAME.in's lock too; repeatable.")
@click.option("--all", "everybody", is_flag=True, help="Of a workspace: the environment of every member.")
@click.option(
    "--bundle",
    metavar="PATH",
    type=PATHS,
    help="Take everything from this bundle (`mlenv bundle`), without a network.",
)
@WAIT
@command(backend=True, machine=True)
def sync_command(session: Session, *, request: str | None, **options: Any) -> None:
    """Make the environment be exactly foundation + lock for one backend.

    A new environment is built beside the old one, checked, and then swapped in with one step: whatever happens on the
    way, .venv is the old one, whole, or the new one, whole.

    \b
    mlenv sync                 the backend of the settings, else the one this machine gets
    mlenv sync --cuda13        the newest CUDA 13 backend that runs here
    mlenv sync --check         for CI: is .venv what it should be?
    mlenv sync --with ipdb     with something of your own, in no lock
    mlenv sync --nightly       torch of the nightly channel; the lock stays as it is
    mlenv sync --bundle PATH   from a folder that `mlenv bundle` made, where there is no network
    mlenv sync --group dev     with a development list (requirements-dev.in), which has a lock of its own
    mlenv sync --all           in a workspace: the environment of every member
    mlenv sync --image --env /opt/venv --cuda13 --only foundation    in a Dockerfile: see docs/images.md
    """
    from dataclasses import replace

    from mlenv import selection
    from mlenv.commands import sync
    from mlenv.sync_options import SyncOptions

    asked = SyncOptions(request=request, **options)
    described = session.machine_file is not None
    asked.refuse_contradictions(described=described, member=session.member)
    if asked.everybody:
        _sync_all(session)
    project, machine = session.project().of_channel("nightly" if asked.nightly else "stable"), session.machine()
    if project.member is not None and project.member.group:
        told = f"{project.member.name} is a development list, which is installed beside a lock"
        raise UsageError(told, hint=f"leave --member out, and write --group {project.member.name}")
    selection.require_project(project)
    asked.refuse_without_gpu(machine)
    if asked.image:
        _sync_image(session, asked, project, machine)
    chosen = _chosen(session, asked, project, machine)
    place = selection.environment(project, chosen.backend, asked=asked.environment)
    wish = asked.for_sync(chosen, place, in_ci=selection.in_ci(session.environ), described=described)
    uv = session.uv() if asked.bundle is None else replace(session.uv(), offline=True)
    if asked.check:
        session.show(sync.check(project, machine, uv, wish))
    if asked.dry_run:
        session.show(sync.dry_run(project, uv, machine, wish, progress=session.progress, detail=session.detail))
    session.show(sync.sync(project, uv, machine, wish, progress=session.progress, detail=session.detail))


def _chosen(session: Session, asked: SyncOptions, project: Project, machine: Machine) -> Choice:
    """The backend; notes on the choice are told."""
    from mlenv import selection

    chosen = selection.select(
        project,
        machine,
        backend=asked.backend,
        flag=asked.request,
        force=asked.force,
        can_force=True,
        channel=project.channel,
        image=asked.image,
        described=session.machine_file is not None,
    )
    for note in chosen.notes:
        session.progress(f"note: {note}")
    return chosen


def _sync_image(session: Session, asked: SyncOptions, project: Project, machine: Machine) -> NoReturn:
    """``--image``: in one fixed folder; its second layer has the backend of its first."""
    from dataclasses import replace

    from mlenv import selection
    from mlenv.commands import image

    if asked.only == "foundation":
        project = project.foundation_only()
    elif asked.backend is None and asked.request is None:
        asked = replace(asked, backend=image.backend_at(asked.environment))
    chosen = _chosen(session, asked, project, machine)
    place = selection.environment(project, chosen.backend, asked=asked.environment)
    wish = asked.for_image(chosen, place)
    session.show(image.sync(project, session.uv(), machine, wish, progress=session.progress))


def _sync_all(session: Session) -> NoReturn:
    """Every member's environment, each by a call of its own with the same options."""
    from mlenv.commands import workspace

    words = given(click.get_current_context(), without=("everybody", "folder", "json", "output_format"))
    project = session.project(whole=True)
    session.show(workspace.sync_all(project, words, progress=session.progress))


@click.group("workspace")
def workspace_group() -> None:
    """The members of a workspace: list them, lock them, sync them all.

    \b
    mlenv workspace list     each member, what it requires of the others, its lock
    mlenv workspace lock     the same as mlenv lock: all are resolved as one
    mlenv workspace sync     the same as mlenv sync --all
    """


@workspace_group.command("list")
@command()
def workspace_list_command(session: Session) -> None:
    """Every member, those that others need before them: its folder, which members it requires, its lock."""
    from mlenv.commands import workspace

    session.show(workspace.list_members(session.project(whole=True)))


@workspace_group.command("sync", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]...")
@click.pass_context
def workspace_sync_command(context: click.Context, options: tuple[str, ...]) -> None:
    """Make the environment of every member; takes what `mlenv sync` takes."""
    with sync_command.make_context("sync", ["--all", *options], parent=context.find_root()) as asked:
        sync_command.invoke(asked)


workspace_group.add_command(lock_command, "lock")


@click.command("bundle")
@BACKENDS
@request_flags
@click.option("--platform", "platforms", multiple=True, metavar="P", help="This platform of the lock only; repeatable.")
@click.option("--python", metavar="VERSION", help="Refuse unless the lock is for this Python, such as 3.12.")
@NIGHTLY
@click.option(
    "-o", "--output", "output", type=PATHS, metavar="PATH", help="Make it in this folder.  [default: .mlenv/bundle]"
)
@click.option("--without-mlenv", is_flag=True, help="Leave mlenv and uv themselves out.")
@DRY_RUN
@WAIT
@command(backend=True)
def bundle_command(
    session: Session,
    *,
    request: str | None,
    backends: tuple[str, ...],
    platforms: tuple[str, ...],
    python: str | None,
    nightly: bool,
    output: Path | None,
    without_mlenv: bool,
    dry_run: bool,
    wait: float,
) -> None:
    """Put lock, records and wheels into one folder, for `mlenv sync --bundle PATH` without a network.

    Each file has its hash in bundle.json. Made on any machine, for the backends and platforms of the lock; made again,
    what is there already is not fetched. mlenv and uv are in it too: README.txt there says how they are installed.

    \b
    mlenv bundle --backend cu130 -o /mnt/usb/demo     one backend, as a folder to carry away
    mlenv bundle --backend cu130 --dry-run            how much that is
    """
    from mlenv import selection
    from mlenv.commands import bundle

    project = session.project().of_channel("nightly" if nightly else "stable")
    if request is not None:
        machine = session.machine()
        asked_for = selection.select(project, machine, backend=None, flag=request, force=True).backend
        backends = (*backends, asked_for)
    folder = (output or project.state / "bundle").absolute()
    asked = bundle.Request(
        folder=folder,
        shown=str(output or ".mlenv/bundle"),
        here=session.machine().platform,
        backends=backends,
        platforms=platforms,
        python=python,
        tool=not without_mlenv,
        dry_run=dry_run,
        wait=wait,
    )
    session.show(bundle.bundle(project, session.uv(), asked, progress=session.progress, detail=session.detail))


COMMANDS = (
    sync_command,
    workspace_group,
    bundle_command,
)
