"""The command line's commands that make environments: sync, workspace, bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mlenv.cli.common import BACKENDS, DRY_RUN, NIGHTLY, PATHS, WAIT, backend_options, command, given
from mlenv.cli.lock import lock_command
from mlenv.errors import UsageError
from mlenv.session import Session

if TYPE_CHECKING:
    pass


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
def sync_command(
    session: Session,
    *,
    backend: str | None,
    request: str | None,
    nightly: bool,
    force: bool,
    dry_run: bool,
    check: bool,
    rebuild: bool,
    locked: bool,
    extras: tuple[str, ...],
    python: str | None,
    environment: Path | None,
    image: bool,
    only: str | None,
    verify: str,
    keep: int | None,
    groups: tuple[str, ...],
    everybody: bool,
    bundle: Path | None,
    wait: float,
) -> None:
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
    from mlenv.standing import Request
    from mlenv.wanted import Verify

    _refuse_beside_image(
        image=image,
        only=only,
        environment=environment,
        others={"--check": check, "--dry-run": dry_run, "--keep": keep is not None, "--bundle": bundle is not None},
        rebuild=rebuild,
        extras=extras,
    )
    if everybody:
        _sync_all(session, environment=environment, image=image)
    _refuse_contradictions(session, dry_run=dry_run, verify=verify, bundle=bundle, extras=extras)
    project = session.project().of_channel("nightly" if nightly else "stable")
    machine = session.machine()
    if image:
        from mlenv.commands import image as image_command

        if only == "foundation":
            project = project.foundation_only()
        elif backend is None and request is None:
            backend = image_command.backend_at(environment)
    chosen = selection.select(
        project,
        machine,
        backend=backend,
        flag=request,
        force=force,
        can_force=True,
        channel=project.channel,
        image=image,
        described=session.machine_file is not None,
    )
    for note in chosen.notes:
        session.progress(f"note: {note}")
    place = selection.environment(project, chosen.backend, asked=environment)
    if image:
        wish = image_command.Request(
            backend=chosen.backend,
            reasons=chosen.reasons,
            environment=place,
            only=image_command.Only(only) if only else None,
            python=python,
            extras=selection.checked_extras(extras),
            verify=Verify(verify),
            rebuild=rebuild,
        )
        session.show(image_command.sync(project, session.uv(), machine, wish, progress=session.progress))
    if place.image and not check and not dry_run:
        told = f"{place.shown} was built for an image, where no generation can stand"
        raise UsageError(told, hint="add --image, or name another path")
    asked = Request(
        backend=chosen.backend,
        reasons=chosen.reasons,
        environment=place,
        python=python,
        extras=selection.checked_extras(extras),
        verify=Verify(verify),
        rebuild=rebuild,
        locked=locked or bundle is not None or selection.in_ci(session.environ),
        described=session.machine_file is not None,
        wait=wait,
        keep=keep,
        bundle=bundle,
        groups=groups,
    )
    uv = session.uv() if bundle is None else replace(session.uv(), offline=True)
    if check:
        session.show(sync.check(project, machine, uv, asked))
    if dry_run:
        session.show(sync.dry_run(project, uv, machine, asked, progress=session.progress, detail=session.detail))
    session.show(sync.sync(project, uv, machine, asked, progress=session.progress, detail=session.detail))


def _sync_all(session: Session, *, environment: Path | None, image: bool) -> NoReturn:
    """Every member's environment, each by a call of its own with the same options."""
    from mlenv.commands import workspace

    if environment is not None or image or session.member is not None:
        told = "--all builds every member's environment, each in its place"
        raise UsageError(told, hint="leave --env, --image and --member out, or name one member without --all")
    words = given(click.get_current_context(), without=("everybody", "folder", "json", "output_format"))
    project = session.project(whole=True)
    session.show(workspace.sync_all(project, words, progress=session.progress))


def _refuse_contradictions(
    session: Session, *, dry_run: bool, verify: str, bundle: Path | None, extras: tuple[str, ...]
) -> None:
    """Raise UsageError for options of ``sync`` that can't be obeyed together, or on this machine."""
    if session.machine_file is not None and not dry_run:
        told = "--machine describes another machine, and nothing can be built for it here"
        raise UsageError(told, hint="add --dry-run to see what it would get")
    if bundle is not None and extras:
        raise UsageError("--with asks for what no bundle holds", hint="leave it off, or add it to requirements.in")
    if verify == "gpu" and not session.machine().visible_gpus:
        raise UsageError("--verify gpu computes on each visible GPU, and none is visible here", hint="--verify import")


def _refuse_beside_image(
    *,
    image: bool,
    only: str | None,
    environment: Path | None,
    others: Mapping[str, bool],
    rebuild: bool,
    extras: tuple[str, ...],
) -> None:
    """Raise UsageError for options that make no sense with ``--image``, or without it."""
    if not image:
        if only is not None:
            told = f"--only {only} builds one layer of an image's environment"
            raise UsageError(told, hint="add --image --env PATH; `mlenv sync` alone builds both")
        return
    if environment is None:
        raise UsageError("--image builds at one fixed path, and none is named", hint="name it: --env /opt/venv")
    senseless = [name for name, given in others.items() if given]
    senseless += ["--rebuild"] if rebuild and only == "application" else []
    senseless += ["--with"] if extras and only == "foundation" else []
    if senseless:
        what = f"--image --only {only}" if only else "--image"
        raise UsageError(f"{senseless[0]} makes no sense with {what}", hint="leave it out")


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
@click.option("--platform", "platforms", multiple=True, metavar="P", help="This platform of the lock only; repeatable.")
@click.option("--python", metavar="VERSION", help="Refuse unless the lock is for this Python, such as 3.12.")
@NIGHTLY
@click.option(
    "-o", "--output", "output", type=PATHS, metavar="PATH", help="Make it in this folder.  [default: .mlenv/bundle]"
)
@click.option("--without-mlenv", is_flag=True, help="Leave mlenv and uv themselves out.")
@DRY_RUN
@WAIT
@command()
def bundle_command(
    session: Session,
    *,
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
    from mlenv.commands import bundle

    project = session.project().of_channel("nightly" if nightly else "stable")
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
