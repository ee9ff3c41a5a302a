"""The command line: parse arguments, call one command, show its outcome, exit.

Only ``session`` and this module print and exit. Everything a command needs is imported when that command runs, because
imports are paid at every start.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlenv import __version__, cli_everyday
from mlenv.cli_common import (
    BACKENDS,
    COMMON,
    DRY_RUN,
    NIGHTLY,
    PATHS,
    WAIT,
    Terminated,
    backend_name,
    backend_options,
    command,
    given,
    ignore_signals,
)
from mlenv.errors import ExitCode, UsageError
from mlenv.session import Session, silence

if TYPE_CHECKING:
    from mlenv.project import Project


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
for _command in cli_everyday.COMMANDS:
    cli.add_command(_command)


@cli.command("lock")
@click.argument("sources", nargs=-1, type=PATHS, metavar="[SRC]...")
@click.option(
    "-P", "--upgrade-package", "packages", multiple=True, metavar="NAME[==V]", help="Let this pin move; repeatable."
)
@click.option("-U", "--upgrade", "everything", is_flag=True, help="Let every pin move.")
@click.option("--refresh-hashes", is_flag=True, help="Take the hashes that the index lists now; pins stay.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would change; write nothing.")
@click.option("--check", is_flag=True, help="Say whether the lock is current: offline, no resolving, writes nothing.")
@click.option("--resolve", is_flag=True, help="With --check: resolve anew as well, and compare.")
@click.option("--verify-hashes", is_flag=True, help="Compare every hash with the index; write nothing.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=backend_name,
    metavar="B",
    help="Prove on this backend only (`--check` then calls the others new); repeatable.",
)
@click.option(
    "--machine",
    "machines",
    multiple=True,
    type=PATHS,
    metavar="FILE",
    help="Refuse where the lock doesn't serve this machine (`mlenv detect --json` printed it); repeatable.",
)
@click.option("--python-version", "python", metavar="VERSION", help="The Python the lock is for, such as 3.12.")
@click.option("--universal", is_flag=True, help="One lock for every platform that mlenv knows.")
@click.option("-o", "--output-file", "output", type=PATHS, metavar="FILE", help="Write this lock.")
@click.option(
    "-c", "--constraint", "constraints", multiple=True, type=PATHS, metavar="FILE", help="Bounds; repeatable."
)
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="This extra of a pyproject.toml; repeatable.")
@click.option("--all-extras", is_flag=True, help="Every extra of a pyproject.toml.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="This dependency group; repeatable.")
@click.option(
    "--unsafe-package", "unsafe", multiple=True, metavar="NAME", help="Leave it out too, as foundation; repeatable."
)
@click.option("--strip-extras", is_flag=True, help="Write pins without extras.")
@click.option("--no-annotate", is_flag=True, help="Write no `# via` comments.")
@click.option(
    "--annotation-style", type=click.Choice(["split", "line"]), default="split", show_default=True, help="Of `# via`."
)
@WAIT
@command()
def lock_command(session: Session, *, wait: float, machines: tuple[Path, ...], **options: Any) -> None:
    """Resolve the Application against every overlay and write the lock.

    Existing pins and hashes stay unless an upgrade is asked for. SRC, -o and what follows it are pip-compile's: without
    them the files of the settings are read and written.

    \b
    mlenv lock                            after a change of requirements.in
    mlenv lock -P transformers            newest transformers that fits
    mlenv lock -P transformers==5.20.0    this one
    mlenv lock --dry-run -U               what a full upgrade would change
    mlenv lock --check                    for hooks and CI
    mlenv lock dev.in -o dev.txt          another pair of files
    mlenv lock --machine node7.json       the same, and what this machine gets is among what it is proven on
    """
    from mlenv import freshness
    from mlenv.commands import lock
    from mlenv.lock_options import LockOptions

    asked = LockOptions(**options)
    asked.refuse_contradictions()
    overrides = asked.overrides(session.root)
    if machines:
        _require_served(session, session.project(overrides), machines)
    only_looked = asked.check and not asked.resolve
    if only_looked and (found := freshness.unchanged(session.root, overrides)) is not None:
        session.show(lock.current(*found))
    session.lock_words = asked.lasting_words()
    if only_looked:
        # A hook's answer depends on the project's files and its arguments alone.
        session.environ = {name: value for name, value in session.environ.items() if not name.startswith("MLENV_")}
        session.show(lock.check(session.project(overrides, machine_files=False, whole=session.member is None)))
    project = session.project(overrides)
    if not project.settings.isolated:
        project = project.of_all
    if asked.verify_hashes:
        session.show(lock.verify_hashes(project, session.uv(), progress=session.progress))
    asked.refuse_overwriting(project)
    wish = asked.wish(project, overrides)
    if session.member is not None:
        lock.require_used(session.project(overrides), wish)
    if asked.check:
        session.show(lock.check_by_resolving(project, session.uv(), wish, progress=session.progress))
    session.show(lock.lock(project, session.uv(), wish, dry_run=asked.dry_run, wait=wait, progress=session.progress))


def _require_served(session: Session, project: Project, files: tuple[Path, ...]) -> None:
    """Say which backend each described machine gets; raise where the lock is for none that runs there."""
    from mlenv import selection

    for path, backend in selection.for_fleet(project, {str(path): session.described(path) for path in files}).items():
        session.progress(f"{path} gets {backend}")


@cli.command("sync")
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


@cli.group("workspace")
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


@cli.command("bundle")
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


_ENV = click.option(
    "--env", "environment", metavar="PATH", type=click.Path(path_type=Path), help="The environment at PATH, not .venv."
)


@cli.command("check")
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


@cli.command("rollback")
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


@cli.command("generations")
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


@cli.command("doctor")
@command(machine=True)
def doctor_command(session: Session) -> None:
    """Everything that could be wrong here, each finding with the command that mends it. Writes nothing.

    Driver and GPUs, uv, disks, variables, and in a project its files, overlays, lock, packages that are coupled to
    torch or CUDA, environment and indexes. Exit 1 where there is an error or a warning; notes don't count.

    \b
    mlenv doctor              ends within 20 seconds, whatever an index does
    mlenv doctor --offline    asks no index
    mlenv doctor --json       every area with its findings
    mlenv doctor --machine node7.json     whether the project fits another machine
    """
    from mlenv.commands import doctor
    from mlenv.location import is_project

    root = session.root
    given = session.machine() if session.machine_file is not None else None
    patient = doctor.Patient(
        root=root,
        load=session.project if is_project(root) else None,
        find_uv=session.uv,
        observe=session.machine if given is None else lambda: given,
        environ=session.environ,
        elsewhere=session.machine_file is not None,
    )
    session.show(doctor.doctor(patient))


@cli.command("detect")
@backend_options
@click.option("--why", is_flag=True, help="Every criterion of every backend, with the source of each fact.")
@command(backend=True, machine=True)
def detect_command(session: Session, *, backend: str | None, request: str | None, why: bool) -> None:
    """What this machine is, which backend it gets, and why each other one was passed over.

    \b
    mlenv detect              driver, CUDA, GPUs, backend, and what would come next
    mlenv detect --cuda12     what --cuda12 would choose
    mlenv detect --why        the whole reasoning
    mlenv detect --json       for programs
    mlenv detect --machine node7.json     what another machine would get
    """
    from mlenv import selection
    from mlenv.commands import detect

    project, machine = session.project(), session.machine()
    asked = detect.Question(
        catalogue=project.usable_catalogue,
        machine=machine,
        declared=selection.declared(project),
        request=selection.request(project, backend=backend, flag=request),
        unguessed=session.machine_file is None and selection.unguessed(session.environ, machine),
        python=project.target_python[0],
        why=why,
        findings=project.plugins.findings,
        environment=_installed(project) if session.as_json and session.machine_file is None else None,
    )
    session.show(detect.detect(asked))


def _installed(project: Project) -> dict[str, Any] | None:
    """The foundation of the project's environment as JSON values: what two machines are compared by."""
    from mlenv import installed, selection

    if "{" in project.settings.environment:  # its place depends on the backend, which is the question here
        return None
    found = installed.of_environment(selection.environment(project, None, asked=None).path)
    return None if found is None else found.as_json()


@cli.command("export")
@click.option(
    "--format",
    "form",
    type=click.Choice(["requirements.txt", "pylock.toml"]),
    default="requirements.txt",
    show_default=True,
)
@backend_options
@click.option(
    "-o",
    "--output-file",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write to FILE instead of standard output.",
)
@command(reports=False, backend=True)
def export_command(
    session: Session, *, form: str, backend: str | None, request: str | None, output: Path | None
) -> None:
    """The lock, or foundation + lock for one backend, for other tools.

    \b
    mlenv export                                        the lock as it is
    mlenv export --backend cu130                        with the foundation, pinned and hashed
    mlenv export --format pylock.toml --backend cu130   PEP 751, with URLs
    """
    from mlenv import selection
    from mlenv.commands import export

    project = session.project()
    if output is not None:
        export.require_free(project, output)
    machine = session.machine()
    named = (
        selection.select(project, machine, backend=backend, flag=request, force=True).backend
        if backend or request
        else None
    )
    text = export.export(project, session.uv(), form=form, backend=named, machine=machine)
    for line in export.left_out(project):
        session.progress(f"note: {line}")
    if output is None:
        click.echo(text, nl=False)
    else:
        from mlenv.system.files import write_atomically

        write_atomically(output, text)


@cli.command("run", context_settings={"allow_interspersed_args": False})
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


@cli.command("init")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=backend_name,
    metavar="B",
    help="Write the overlay of this backend; repeatable.",
)
@click.option("--nightly", is_flag=True, help="Add the indexes of the nightly channel, too.")
@click.option("--python", metavar="VERSION", help="The Python the lock is for.")
@command()
def init_command(session: Session, *, backends: tuple[str, ...], nightly: bool, python: str | None) -> None:
    """Write what is missing: overlays, indexes, settings, a starting requirements.in. Overwrites nothing.

    \b
    mlenv init                          overlays for cpu, cu126, cu130 and cu132
    mlenv init --backend cu128          one more
    mlenv init --nightly                the indexes for `mlenv sync --nightly`
    """
    from mlenv.commands import init

    root = (session.folder or Path.cwd()).resolve()
    session.show(
        init.init(root, backends=backends, channels=("stable", "nightly") if nightly else ("stable",), python=python)
    )


@cli.group("foundation")
def foundation_group() -> None:
    """What exists for each backend, and what the overlays and records hold.

    \b
    mlenv foundation list          releases of torch for each backend
    mlenv foundation upgrade       move the overlays to the newest
    mlenv foundation record        write constraints/pylock.<backend>.toml: every file with its hash
    mlenv foundation diff A B      two records, a record and an environment, or two machines
    """


@foundation_group.command("list")
@BACKENDS
@command()
def foundation_list_command(session: Session, *, backends: tuple[str, ...]) -> None:
    """What exists for each backend, for the target Python and platforms.

    The sources of the overlays are asked for their newest torch, the indexes of nightlies that uv.toml has, too; the
    other releases are those mlenv knows.

    \b
    mlenv foundation list
    mlenv foundation list --offline     what is known, nobody asked
    """
    from mlenv.commands import foundation_list

    session.show(foundation_list.list_releases(session.project(), session.uv(), backends=backends))


@foundation_group.command("upgrade")
@BACKENDS
@NIGHTLY
@click.option("--fit", is_flag=True, help="The newest at which nothing in requirements.in is held back.")
@DRY_RUN
@WAIT
@command()
def foundation_upgrade_command(
    session: Session, *, backends: tuple[str, ...], nightly: bool, fit: bool, dry_run: bool, wait: float
) -> None:
    """Move the overlays to the newest releases that exist, with the torchvision and torchaudio that belong to them.

    Comments stay, and the difference is shown. The lock is not touched: run `mlenv lock` then.

    \b
    mlenv foundation upgrade                            every overlay
    mlenv foundation upgrade --backend cu130 --dry-run  what would change
    mlenv foundation upgrade --fit                      as new as requirements.in allows
    mlenv foundation upgrade --nightly --backend cu132  today's nightlies, for `mlenv sync --nightly`
    """
    from datetime import date

    from mlenv.commands import foundation_upgrade

    if nightly and (fit or not backends):
        problem = "--fit is for releases" if fit else "--nightly moves the nightlies of one backend"
        raise UsageError(problem, hint="name it: `mlenv foundation upgrade --nightly --backend cu132`")
    project, uv, say = session.project(), session.uv(), session.progress
    if nightly:
        session.show(
            foundation_upgrade.upgrade_nightly(
                project.of_channel("nightly"),
                uv,
                backends=backends,
                dry_run=dry_run,
                wait=wait,
                today=date.today(),
                progress=say,
            )
        )
    session.show(
        foundation_upgrade.upgrade(project, uv, backends=backends, fit=fit, dry_run=dry_run, wait=wait, progress=say)
    )


@foundation_group.command("record")
@BACKENDS
@NIGHTLY
@DRY_RUN
@WAIT
@command()
def foundation_record_command(
    session: Session, *, backends: tuple[str, ...], nightly: bool, dry_run: bool, wait: float
) -> None:
    """Write the foundation of each backend as files with hashes: constraints/pylock.<backend>.toml.

    `mlenv sync` then installs exactly these files, on every machine, and refuses where lock and record don't fit.

    \b
    mlenv foundation record
    mlenv foundation record --backend cu130
    """
    from datetime import date

    from mlenv.commands import foundation_record

    if nightly and not backends:
        raise UsageError("--nightly records one backend", hint="add --backend B")
    session.show(
        foundation_record.write_records(
            session.project().of_channel("nightly" if nightly else "stable"),
            session.uv(),
            backends=backends,
            dry_run=dry_run,
            wait=wait,
            today=date.today(),
            progress=session.progress,
        )
    )


@foundation_group.command("diff")
@click.argument("one", metavar="A")
@click.argument("other", metavar="[B]", required=False)
@command(machine=True)
def foundation_diff_command(session: Session, *, one: str, other: str | None) -> None:
    """What differs between two foundations; exit status 1 where anything does.

    A and B are backends that have a record, records, environments, or machines (`mlenv detect --json > FILE`, which
    also tells what is installed). Without B it is the project's environment.

    \b
    mlenv foundation diff cu130                     the record and .venv
    mlenv foundation diff cu130 cu132               two records
    mlenv foundation diff mine.json theirs.json     "works on my machine"
    """
    from mlenv import selection
    from mlenv.commands import foundation_diff

    project = session.project()
    second = other or str(selection.environment(project, None, asked=None).path)
    platform, described = session.machine().platform, session.machine_file is not None
    session.show(foundation_diff.diff(project, one, second, platform=platform, described=described))


@cli.group("fleet")
def fleet_group() -> None:
    """Many machines, one lock: prove it for each of them, from anywhere."""


@fleet_group.command("check")
@click.argument("files", nargs=-1, type=PATHS, metavar="[FILE]...")
@click.option("--check", is_flag=True, help="Say whether the certificate still holds: by digests, offline.")
@click.option(
    "--certificate",
    "output",
    type=PATHS,
    metavar="FILE",
    help="The certificate; default: fleet-certificate.json in the project.",
)
@command()
def fleet_check_command(session: Session, *, files: tuple[Path, ...], check: bool, output: Path | None) -> None:
    """Choose the backend of each described machine, prove the lock for it, and write a certificate.

    FILE is what `mlenv detect --json` printed on a machine, or written by hand; without any, those that the certificate
    names. Nothing is installed, and no machine has to be in reach.

    \b
    mlenv detect --json > fleet/node7.json     on each machine, once
    mlenv fleet check fleet/*.json             a table, and fleet-certificate.json
    mlenv fleet check --check                  for hooks and CI: does the certificate still hold?
    """
    from mlenv.commands import fleet

    project = session.project(machine_files=False) if check else session.project()
    target = output or project.root / fleet.CERTIFICATE
    if check:
        session.show(fleet.check_certificate(project, files=files, output=target))
    session.show(fleet.check(project, session.uv(), files=files, output=target, progress=session.progress))


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
    if isinstance(error, click.NoSuchOption) and context is not None and context.command is run_command:
        hint = f"an option of the command stands behind it: `mlenv run -- CMD {error.option_name}`"
    session = Session(json="--json" in sys.argv[1:])
    session.fail(UsageError(error.format_message(), hint=hint))
