"""One call of the command: its streams, how much it says, the project and the machine it works on.

Only this module and ``cli`` print and exit.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from mlenv.errors import EnvironmentBuildError, MlenvError, UsageError

if TYPE_CHECKING:
    from mlenv.machine import Machine
    from mlenv.project import Project
    from mlenv.report import Area, Finding, Outcome
    from mlenv.system.uv import Uv
    from mlenv.workspace import Member


@dataclass
class Session:
    """One call of the command: its streams, how much it says, and the project it works on."""

    folder: Path | None = None
    quiet: bool = False
    verbose: int = 0
    color: str = "auto"
    offline: bool = False
    json: bool = False
    output_format: str = "text"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    told: list[Finding] = field(default_factory=list)
    lock_words: str = ""
    machine_file: Path | None = None
    member: str | None = None

    @property
    def as_json(self) -> bool:
        """Whether results are told as JSON."""
        return self.json or self.output_format == "json"

    def progress(self, line: str) -> None:
        """Say what is going on, on standard error."""
        if not self.quiet:
            self._say(line, err=True)

    def detail(self, line: str) -> None:
        """Say it only with ``-v``."""
        if self.verbose:
            self._say(line, err=True)

    @cached_property
    def root(self) -> Path:
        """The folder of the project this call works on. Raises UsageError where ``--project`` is none."""
        return self._place[0]

    @cached_property
    def _place(self) -> tuple[Path, Path]:
        """The project's folder, and the folder within that was named or stood in."""
        from mlenv.location import find_root, workspaces_above

        start = (self.folder or Path.cwd()).resolve()
        if not start.is_dir():
            raise UsageError(f"--project {start} is not a folder", hint="name the folder that holds requirements.in")
        root = find_root(start) if self.folder is None else start
        for folder in workspaces_above(root):
            if self._member_at(folder, start) is not None:
                return folder, start
        return root, start

    @property
    def member_folder(self) -> tuple[Path, str] | None:
        """(workspace, folder in it as POSIX) of the member that was named or is stood in, an empty one among them."""
        from mlenv import settings, workspace
        from mlenv.location import workspaces_above

        root, start = self._place
        if root != start and (member := self._member_at(root, start)) is not None:
            return root, member.folder
        for above in workspaces_above(start):
            folder = start.relative_to(above).as_posix()
            if workspace.is_awaited(above, settings.load(above, environ=self.environ)[0], folder):
                return above, folder
        return None

    def _member_at(self, root: Path, folder: Path) -> Member | None:
        """The member of the workspace at ``root`` that a folder belongs to. Raises ProjectError."""
        from mlenv import settings, workspace

        loaded, _ = settings.load(root, environ=self.environ)
        return workspace.read(root, loaded).holding(folder.relative_to(root).as_posix())

    def project(
        self, overrides: Mapping[str, object] | None = None, *, machine_files: bool = True, whole: bool = False
    ) -> Project:
        """The project this call works on; notes of its settings are told.

        Without ``machine_files`` the user's and the system's settings are left unread. Of a workspace it is the member
        whose folder this is, or that was named; with ``whole`` all of it.
        """
        from mlenv import settings
        from mlenv.project import Project

        root = self.root
        nowhere = None if machine_files else Path(os.devnull, "mlenv.toml")  # there is no such file

        alone = None
        if not {"requirements", "lock"}.isdisjoint(overrides or {}):  # files that the command line names: no members
            from mlenv.workspace import Workspace

            alone = Workspace()

        def read() -> Project:
            loaded, notes = settings.load(
                root, environ=self.environ, overrides=overrides or {}, user_file=nowhere, system_file=nowhere
            )
            return Project(
                root=root,
                settings=loaded,
                environ=self.environ,
                notes=notes,
                known=alone,
                tell=self._tell,
                reread=read,
            )

        found = read()
        for note in found.notes:
            self._show_finding(note)
        for key, origin in sorted(found.settings.origins.items()):
            if origin != "default":
                self.detail(f"setting {key}: from {origin}")
        if self.verbose:
            from mlenv.system import uv

            for name in uv.dropped(self.environ):
                self.detail(f"{name} is set and is kept from uv")
        return found if whole else self._as_member(found)

    def _as_member(self, project: Project) -> Project:
        """The project as the member sees it that was named, or whose folder this is."""
        start = self._place[1]
        if self.member is not None:
            return project.of_member(project.workspace.member(self.member))
        member = project.workspace.holding(start.relative_to(self.root).as_posix()) if start != self.root else None
        return project.of_member(member) if member is not None else project

    def uv(self) -> Uv:
        """How uv is to be started in this call."""
        from dataclasses import replace

        from mlenv.system import uv

        found = uv.find(self.environ, offline=self.offline, echo=None if self.quiet else self._echo)
        return replace(found, terminal=sys.stderr.isatty() and not self.quiet)

    def machine(self) -> Machine:
        """The machine as it is observed, or as ``--machine FILE`` describes one."""
        if self.machine_file is not None:
            return self.described(self.machine_file)
        from mlenv import selection

        return selection.observe(self.environ)

    def described(self, path: Path) -> Machine:
        """The machine that a file describes; ``-`` is standard input.

        Raises UsageError where there is none that can be read, ProjectError for a mistake in it.
        """
        from mlenv import machine
        from mlenv.errors import ProjectError
        from mlenv.textfile import decoded, read_text

        if str(path) == "-":
            text = decoded(sys.stdin.buffer.read(), shown="standard input", utf16=True)
            return machine.parse(text, path="standard input")
        hint = "name a file: `mlenv detect --json` on that machine prints one"
        try:
            found = read_text(path, shown=str(path), utf16=True, pipe=True)
        except ProjectError as error:
            raise UsageError(f"--machine {path}: {error.message}", hint=hint) from error
        if found is None:
            raise UsageError(f"--machine {path}: there is no such file", hint=hint)
        return machine.parse(found, path=str(path))

    def _hinted(self, hint: str) -> str:
        """The hint, its commands such that they do it from this folder and for the lock that was asked for."""
        import shlex

        words = [] if self.folder is None else ["--project", str(self.folder)]
        root, start = vars(self).get("_place", (None, None))
        if root != start:  # `init` works in the folder where it is called, everything else finds its project
            hint = hint.replace("`mlenv init", f"`mlenv --project {shlex.quote(os.path.relpath(root))} init")
        words += [] if self.member is None else ["--member", self.member]
        here = f"`mlenv {shlex.join(words)} " if words else "`mlenv "
        with_words = (
            re.sub("`mlenv lock`", lambda _: f"`mlenv lock {self.lock_words}`", hint) if self.lock_words else hint
        )
        return re.sub("`mlenv (?!--project )", lambda _: here, with_words)

    def show(self, outcome: Outcome) -> NoReturn:
        """Print an outcome and leave with its exit status."""
        if self.output_format == "github":
            for finding in outcome.findings:
                where = self._in_workspace(finding.path)
                self._say(_workflow_command(finding.severity, str(finding.message), where, finding.line))
        if self.as_json:
            import json

            findings = [finding.as_json() for finding in outcome.findings]
            document = {**outcome.data, "findings": findings, "exit_code": int(outcome.exit_code)}
            self._say(json.dumps(document, indent=2, default=str, ensure_ascii=False))
        else:
            self._show_text(outcome)
        raise SystemExit(int(outcome.exit_code))

    def _show_text(self, outcome: Outcome) -> None:
        if outcome.areas:
            self._show_areas(outcome.areas)
        else:
            self._show_findings(outcome.findings)
        if outcome.text and not self.quiet:
            self._say(outcome.text)

    def _show_findings(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._show_finding(finding)
            if finding.severity == "warning" and finding.hint:
                self._say(f"  instead: {self._hinted(finding.hint)}")
        for hint in dict.fromkeys(f.hint for f in findings if f.hint and f.severity == "error"):
            self._say(f"hint: {self._hinted(hint)}")

    def _show_areas(self, areas: Sequence[Area]) -> None:
        """A line for each area, below it what is wrong there, why that matters and what mends it."""
        width = max(len(area.name) for area in areas)
        for area in areas:
            if self.quiet and area.state not in ("error", "warning"):
                continue
            self._say(f"{self._styled(area.state)}  {area.name:<{width}}  {area.seen}".rstrip())
            for finding in area.findings:
                if not self.quiet or finding.severity != "note":
                    self._show_below(finding)

    def _show_below(self, finding: Finding) -> None:
        lines = str(finding).splitlines()
        self._say("\n".join([f"  {finding.severity}: {lines[0]}", *(f"    {line}" for line in lines[1:])]))
        if finding.why:
            self._say(f"    why: {finding.why}")
        if finding.hint:
            self._say(f"    hint: {_indented(self._hinted(finding.hint), by=10)}")

    @staticmethod
    def _styled(state: str) -> str:
        """The word in its colour, filled up to one width before that: colour has a length and no width."""
        colors = {"ok": "green", "warning": "yellow", "error": "red"}
        return click.style(f"{state:<7}", fg=colors.get(state))

    def _tell(self, note: Finding) -> None:
        """What a file had to say, once, however often it is read."""
        if note not in self.told:
            self.told.append(note)
            self._show_finding(note)

    def _show_finding(self, finding: Finding) -> None:
        if finding.severity == "note":
            self.progress(f"note: {finding}")
            return
        styled = click.style(f"{finding.severity}:", fg="red" if finding.severity == "error" else "yellow", bold=True)
        self._say(f"{styled} {finding}")

    def fail(self, error: MlenvError) -> NoReturn:
        """Print an error and leave with its exit status. No credentials, whoever put them into the message."""
        from mlenv.system.uv_messages import mask

        message, hint = mask(error.message), self._hinted(mask(error.hint)) if error.hint else None
        if self.output_format == "github":
            where = self._in_workspace(str(error.path)) if error.path else None
            self._say(_workflow_command("error", message, where, error.line))
        if self.as_json:
            import json

            told = {"code": int(error.code), "message": message, "where": error.where, "hint": hint}
            self._say(json.dumps({"error": told, "exit_code": int(error.code)}, indent=2, ensure_ascii=False))
        where = f"{error.where}: " if error.where else ""
        self._say(f"{click.style('error:', fg='red', bold=True)} {where}{message}", err=True)
        if hint:
            self._say(f"{click.style('hint:', fg='cyan')} {_indented(hint, by=6)}", err=True)
        if self.verbose and (detail := _detail(error)):
            self._say(f"\nuv said:\n{mask(detail)}", err=True)
        if self.verbose > 1:
            import traceback

            self._say(mask("".join(traceback.format_exception(error))), err=True)
        raise SystemExit(int(error.code))

    def stopped(self, message: str, code: int) -> NoReturn:
        """Say that a signal ended mlenv, and leave with its status."""
        if self.as_json:
            import json

            told = {"code": code, "message": message, "where": None, "hint": None}
            self._say(json.dumps({"error": told, "exit_code": code}, indent=2, ensure_ascii=False))
        self.progress(message)
        raise SystemExit(code)

    def _in_workspace(self, path: str | None) -> str | None:
        """A file of the project as GitHub Actions wants it: from the checkout on, wherever the project is."""
        if path is None:
            return None
        workspace = Path(self.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
        absolute = self.root / path
        return absolute.relative_to(workspace).as_posix() if absolute.is_relative_to(workspace) else path

    def _say(self, text: str, *, err: bool = False) -> None:
        """Print. Where nobody reads any more (``| head``) the work goes on in silence, and so does the exit status."""
        try:
            click.echo(text, err=err, color=self._color())
        except BrokenPipeError:
            silence(sys.stderr if err else sys.stdout)
        except OSError as error:
            silence(sys.stderr if err else sys.stdout)
            if not err:
                told = f"standard output can't be written: {error.strerror}"
                raise EnvironmentBuildError(told, hint="write it where there is space left") from error

    def _color(self) -> bool | None:
        return {"always": True, "never": False}.get(self.color, False if self.environ.get("NO_COLOR") else None)

    @staticmethod
    def _echo(data: bytes) -> None:
        try:
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
        except OSError:  # a reader that left must not end the installation
            silence(sys.stderr)


def _indented(text: str, *, by: int) -> str:
    """Several lines, one below the other."""
    return text.replace("\n", "\n" + " " * by)


def silence(stream: TextIO) -> None:
    """Let what else is written to a stream whose reader left go nowhere, the flush at exit included."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _workflow_command(severity: str, message: str, path: str | None, line: int | None) -> str:
    """A finding as GitHub Actions shows it beside the file and line."""
    kind = {"warning": "warning", "note": "notice"}.get(severity, "error")
    place = {"file": path, "line": line, "title": "mlenv"}
    properties = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in place.items() if value is not None)
    return f"::{kind} {properties}::{_escaped(message, '')}"


def _escaped(text: str, more: str) -> str:
    for sign in "%\r\n" + more:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def _detail(error: BaseException | None) -> str | None:
    """All that uv said, of the error or of what it was made from."""
    while error is not None:
        if isinstance(error, MlenvError) and error.detail:
            return error.detail
        error = error.__cause__ or error.__context__
    return None
