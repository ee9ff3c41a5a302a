"""The command line's commands on overlays, records and fleets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlenv.cli.common import BACKENDS, DRY_RUN, NIGHTLY, PATHS, WAIT, command
from mlenv.errors import UsageError
from mlenv.session import Session

if TYPE_CHECKING:
    pass


@click.group("foundation")
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


@click.group("fleet")
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


COMMANDS = (
    foundation_group,
    fleet_group,
)
