"""Two states of one project, some twenty packages each, to go to and fro between while something goes wrong."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from support.wheels import Package
from support.whole import pinned
from support.world import World

APPLICATIONS, _MODULES = 12, 40


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One of the two states of the project that it goes to and fro between."""

    requirements: str
    lock: str

    @property
    def expected(self) -> dict[str, str]:
        """name → version of a whole environment; torchvision and torchaudio are pinned by the overlay too."""
        family = {"torch": "2.14.1+cpu", "torchvision": "0.29.1+cpu", "torchaudio": "2.11.0+cpu"}
        return {**pinned(self.lock), **family}

    def write(self, root: Path) -> None:
        """Make the project so."""
        (root / "requirements.in").write_text(self.requirements)
        (root / "requirements.txt").write_text(self.lock)


def _application(number: int, version: str) -> Package:
    files = {f"app_{number}/part{n}.py": f"VERSION = {version!r}\n" * n for n in range(_MODULES)}
    return Package(f"app-{number}", version, files=files)


_PUBLISHED = (
    *(_application(number, version) for number in range(APPLICATIONS) for version in ("1.0", "2.0")),
    Package("only-in-one", "1.0"),
)


def _requirements(version: str, *more: str) -> str:
    return "\n".join(["demo-app", *(f"app-{number}=={version}" for number in range(APPLICATIONS)), *more, ""])


def two_states(world: World) -> tuple[Inputs, Inputs]:
    """Both locked and built for the CPU, so that uv's cache is warm; the second is what stands there."""
    world.publish(*_PUBLISHED)
    states = []
    for text in (_requirements("1.0", "only-in-one"), _requirements("2.0")):
        (world.root / "requirements.in").write_text(text)
        world.lock()
        world.sync()
        states.append(Inputs(requirements=text, lock=(world.root / "requirements.txt").read_text()))
    return states[0], states[1]


def remove_unused(world: World) -> None:
    """Remove every generation but the one in use, so that the next sync builds."""
    for path in (world.root / ".mlenv" / "gen").iterdir():
        if path != world.generation:
            shutil.rmtree(path)
