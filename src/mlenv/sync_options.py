"""The options of ``mlenv sync``: which go together, and the request they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlenv.errors import UsageError
from mlenv.values import dataclass

if TYPE_CHECKING:
    from mlenv.backend import Choice
    from mlenv.commands import image as image_command
    from mlenv.machine import Machine
    from mlenv.selection import Environment
    from mlenv.standing import Request


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """What the command line of ``sync`` says, under the names of its options."""

    backend: str | None
    request: str | None
    nightly: bool
    force: bool
    dry_run: bool
    check: bool
    rebuild: bool
    locked: bool
    extras: tuple[str, ...]
    python: str | None
    environment: Path | None
    image: bool
    only: str | None
    verify: str
    keep: int | None
    groups: tuple[str, ...]
    everybody: bool
    bundle: Path | None
    wait: float

    def refuse_contradictions(self, *, described: bool, member: str | None) -> None:
        """Raise UsageError for options that can't be obeyed together; ``described``: ``--machine`` names a machine."""
        self._refuse_beside_image()
        if self.everybody and (self.environment is not None or self.image or member is not None):
            told = "--all builds every member's environment, each in its place"
            raise UsageError(told, hint="leave --env, --image and --member out, or name one member without --all")
        if described and not self.dry_run:
            told = "--machine describes another machine, and nothing can be built for it here"
            raise UsageError(told, hint="add --dry-run to see what it would get")
        if self.bundle is not None and (self.extras or self.groups):
            asked = "--with" if self.extras else "--group"
            raise UsageError(f"{asked} asks for what no bundle holds", hint="leave it off, or sync without --bundle")

    def refuse_without_gpu(self, machine: Machine) -> None:
        """Raise UsageError for what this machine can't do."""
        if self.verify == "gpu" and not machine.visible_gpus:
            told = "--verify gpu computes on each visible GPU, and none is visible here"
            raise UsageError(told, hint="--verify import")

    def _refuse_beside_image(self) -> None:
        """Raise UsageError for options that make no sense with ``--image``, or without it."""
        if not self.image:
            if self.only is not None:
                told = f"--only {self.only} builds one layer of an image's environment"
                raise UsageError(told, hint="add --image --env PATH; `mlenv sync` alone builds both")
            return
        if self.environment is None:
            raise UsageError("--image builds at one fixed path, and none is named", hint="name it: --env /opt/venv")
        given = {
            "--check": self.check,
            "--dry-run": self.dry_run,
            "--keep": self.keep is not None,
            "--bundle": self.bundle is not None,
            "--group": bool(self.groups),
            "--rebuild": self.rebuild and self.only == "application",
            "--with": bool(self.extras) and self.only == "foundation",
        }
        senseless = [name for name, is_given in given.items() if is_given]
        if senseless:
            what = f"--image --only {self.only}" if self.only else "--image"
            raise UsageError(f"{senseless[0]} makes no sense with {what}", hint="leave it out")

    def for_image(self, chosen: Choice, place: Environment) -> image_command.Request:
        """What is asked of ``sync --image``. Raises UsageError for additions that can't be parsed."""
        from mlenv.commands.image import Only, Request
        from mlenv.selection import checked_extras
        from mlenv.wanted import Verify

        return Request(
            backend=chosen.backend,
            reasons=chosen.reasons,
            environment=place,
            only=Only(self.only) if self.only else None,
            python=self.python,
            extras=checked_extras(self.extras),
            verify=Verify(self.verify),
            rebuild=self.rebuild,
        )

    def for_sync(self, chosen: Choice, place: Environment, *, in_ci: bool, described: bool) -> Request:
        """What is asked of ``sync``. Raises UsageError, also where the environment is an image's."""
        from mlenv.selection import checked_extras
        from mlenv.standing import Request
        from mlenv.wanted import Verify

        if place.image and not self.check and not self.dry_run:
            told = f"{place.shown} was built for an image, where no generation can stand"
            raise UsageError(told, hint="add --image, or name another path")
        return Request(
            backend=chosen.backend,
            reasons=chosen.reasons,
            environment=place,
            python=self.python,
            extras=checked_extras(self.extras),
            verify=Verify(self.verify),
            rebuild=self.rebuild,
            locked=self.locked or self.bundle is not None or in_ci,
            described=described,
            wait=self.wait,
            keep=self.keep,
            bundle=self.bundle,
            groups=self.groups,
        )
