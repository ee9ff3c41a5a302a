"""Put a finished generation into use at an environment's path, in one step.

In the layout ``link`` the environment is a link, and is replaced by another link. In the layout ``directory`` it is a
folder, and changes places with the new one (ADR 0014).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from mlenv.errors import EnvironmentBuildError
from mlenv.system import generation, history, inventory, process
from mlenv.system.generation import Generation
from mlenv.system.links import exchange, is_link, make_link, remove_link
from mlenv.values import dataclass

_STAGED = "flip"


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """The generation where it is now, and where what mlenv had not made was moved to."""

    generation: Generation
    aside: Path | None = None


def flip(
    state: Path, environment: Path, new: Generation, *, env: Mapping[str, str], back_to: str | None = None
) -> Flipped:
    """Make ``environment`` be the generation ``new``, in its layout; ``back_to`` is the id that a rollback asked for.

    What stood there and isn't mlenv's changes places with it and stands aside then, never deleted. ``env`` is what a
    program of the new environment is tried with. Raises EnvironmentBuildError, where what stood there stays.
    """
    aside = place_aside(environment)
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        now = generation.current(environment)
        history.note(state, environment, new.id, was=None if now is None else now.id, back_to=back_to)
        if new.layout == "directory":
            _change_places(state, environment, new, env=env, aside=aside)
        else:
            _link(state, environment, new.path, aside=aside)
    except OSError as error:
        raise EnvironmentBuildError(
            f"can't be made the new environment: {error.strerror}",
            path=str(environment),
            hint="check the permissions of its folder",
        ) from error
    placed = generation.current(environment)
    assert placed is not None
    return Flipped(generation=placed, aside=aside)


def _link(state: Path, environment: Path, target: Path, *, aside: Path | None) -> None:
    """Replace the link; a folder that the other layout left there goes to the generations."""
    staged = _staged(state, environment)
    make_link(staged, _link_target(environment, target), windows=os.name == "nt")
    try:
        if aside is not None:
            _displace(staged, environment, aside)
        elif environment.is_dir() and not is_link(environment):
            exchange(staged, environment)
            _put_away(state, staged)
        else:
            if os.name == "nt" and is_link(environment):
                environment.rmdir()  # Windows replaces no folder, and a junction is one: for a moment there is none
            staged.replace(environment)
    except OSError:
        with suppress(OSError):
            remove_link(staged)
        raise


def _staged(state: Path, environment: Path) -> Path:
    """Where the new link is made: in mlenv's own folder, or beside an environment on another file system."""
    elsewhere = environment.parent.stat().st_dev != state.stat().st_dev
    staged = _beside(environment) if elsewhere else state / _STAGED
    _put_away(state, staged)
    return staged


def _beside(environment: Path) -> Path:
    return environment.with_name(f".{environment.name}.{_STAGED}")


def tidy(state: Path) -> None:
    """Put away what ``kill -9`` in the middle of a flip left; the project's lock must be held."""
    with suppress(OSError):
        environments = history.environments(state)
        for staged in (state / _STAGED, *map(_beside, environments)):
            _put_away(state, staged)
        for aside in filter(_is_own, _moved_aside(environments)):
            _put_away(state, aside)
        for found in generation.misplaced(state):
            _put_away(state, found.path)
        for trial in _trials(environments):
            trial.unlink()


def interrupted(state: Path) -> bool:
    """Whether ``tidy`` has something to put away."""
    environments = history.environments(state)
    staged = any(os.path.lexists(path) for path in (state / _STAGED, *map(_beside, environments)))
    aside = any(map(_is_own, _moved_aside(environments)))
    return staged or aside or bool(generation.misplaced(state)) or any(_trials(environments))


def _trials(environments: Iterable[Path]) -> Iterator[Path]:
    """The script that a new environment was just being tried with."""
    trials = (generation.scripts_of(environment) / inventory.TRIAL for environment in environments)
    return (path for path in trials if os.path.lexists(path))


def _moved_aside(environments: Iterable[Path]) -> Iterator[Path]:
    """What stands where mlenv moves to what it did not make."""
    return (path for environment in environments for path in takewhile(os.path.lexists, _aside(environment)))


def _displace(incoming: Path, environment: Path, aside: Path) -> None:
    """What is at ``incoming`` takes the place of what isn't mlenv's, which is ``aside`` then; there is always one."""
    incoming.rename(aside)
    try:
        exchange(aside, environment)
    except OSError:
        aside.rename(incoming)
        raise


def _change_places(
    state: Path, environment: Path, new: Generation, *, env: Mapping[str, str], aside: Path | None
) -> None:
    if aside is not None:
        _displace(new.path, environment, aside)

        def back() -> None:
            exchange(aside, environment)
            aside.rename(new.path)

        _require_starting(environment, env=env, undo=back)
        return
    if not os.path.lexists(environment):
        new.path.rename(environment)
        _require_starting(environment, env=env, undo=lambda: environment.rename(new.path))
        return
    exchange(new.path, environment)
    _require_starting(environment, env=env, undo=lambda: exchange(new.path, environment))
    _put_away(state, new.path)


def _put_away(state: Path, old: Path) -> None:
    """What stood at an environment's path before: a link goes, a generation gets the place of its name."""
    if is_link(old):
        remove_link(old)
        return
    found = generation.read(old)
    if found is None or old == (home := generation.folder(state) / found.id):
        return
    old.rename(generation.free_place(state, found.id) if os.path.lexists(home) else home)


def _link_target(environment: Path, target: Path) -> str:
    """Relative inside the project, so that the project can be looked at from elsewhere; absolute otherwise."""
    base = environment.parent.resolve()
    target = target.resolve()
    project = target.parents[2]
    return os.path.relpath(target, base) if base.is_relative_to(project) else str(target)


def place_aside(environment: Path) -> Path | None:
    """Where what stands at ``environment`` is moved to; None where that is mlenv's, or nothing."""
    if _is_own(environment) or not os.path.lexists(environment):
        return None
    return next(path for path in _aside(environment) if not os.path.lexists(path))


def _aside(environment: Path) -> Iterator[Path]:
    name = f"{environment.name}.before-mlenv"
    return map(environment.with_name, (name, *(f"{name}-{number}" for number in range(2, 1000))))


def _is_own(environment: Path) -> bool:
    """Whether it is a generation, or a link to one, even to one that is gone."""
    if not is_link(environment):
        return generation.read(environment) is not None
    target = Path(os.path.normpath(environment.parent / environment.readlink()))
    return target.parts[-3:-1] == (".mlenv", "gen")


def _require_starting(environment: Path, *, env: Mapping[str, str], undo: Callable[[], object]) -> None:
    """Its commands were written at another path: one of them must start from this one, else the exchange is undone."""
    script = generation.scripts_of(environment) / inventory.TRIAL
    try:
        launcher = _launcher(environment)
        script.write_bytes(launcher + b"import sys; print(sys.prefix)\n")
        script.chmod(0o755)
        done = process.run([script] if launcher else [generation.python_of(environment), script], env=env)
        told = done.out.strip() if done.code == 0 else ""
        said = done.err.strip()[-500:]
    except OSError as error:
        told, said = "", str(error.strerror)
    finally:
        with suppress(OSError):
            script.unlink()
    if told and Path(told).resolve() == environment.resolve():
        return
    undo()
    raise EnvironmentBuildError(
        f"the commands of the new environment don't start from here: {said or told}",
        path=str(environment),
        hint='build it in place: [tool.mlenv] layout = "link"',
    )


def _launcher(environment: Path) -> bytes:
    """The first lines of a console script, up to where its Python begins, as uv wrote them; empty without one."""
    for path in sorted(generation.scripts_of(environment).iterdir()):
        head = path.read_bytes()[:4096] if path.is_file() and not is_link(path) else b""
        for end in (b"\n' '''\n", b"\n"):
            first, found, _ = head.partition(end)
            if found and first.startswith(b"#!") and b"python" in first:
                return first + found
    return b""
