"""The command line's commands on a project and its lock: init, lock, export, doctor, detect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlenv.cli.common import PATHS, WAIT, backend_name, backend_options, command
from mlenv.session import Session

if TYPE_CHECKING:
    from mlenv.project import Project


@click.command("init")
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

    if (found := session.member_folder) is not None:
        workspace, folder = found
        raise init.in_member(folder, workspace, backends=backends, nightly=nightly, python=python)
    root = (session.folder or Path.cwd()).resolve()
    session.show(
        init.init(root, backends=backends, channels=("stable", "nightly") if nightly else ("stable",), python=python)
    )


@click.command("lock")
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


@click.command("export")
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


@click.command("doctor")
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


@click.command("detect")
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


COMMANDS = (
    init_command,
    lock_command,
    export_command,
    doctor_command,
    detect_command,
)
