"""Build what is wanted: planned anew, or from the plan of an earlier build."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mlenv import build, gate, planning, unbundle
from mlenv.clock import Clock
from mlenv.errors import MlenvError, PackageIndexError
from mlenv.plan import Plan
from mlenv.standing import State
from mlenv.system import uv as uv_module
from mlenv.system.generation import Generation
from mlenv.wanted import Verify

Progress = Callable[[str], None]


def build_anew(state: State, *, clock: Clock, progress: Progress, detail: Progress) -> tuple[Generation, list[str]]:
    """A new generation that passed the gate, and notes. Raises what planning and ``build.build`` raise."""
    if state.opened is not None:
        return _build_bundled(state, state.opened, clock=clock, progress=progress), []
    saved = next((p for p in map(build.saved_plan, state.candidates) if p is not None), None)
    if saved is not None:
        try:
            return _build_planned(state, saved, clock=clock, progress=progress), []
        except PackageIndexError as error:  # its URLs may be those of yesterday's mirror
            if state.uv.offline:
                raise
            progress(f"the plan of the last build can't be had any more: {error.message.splitlines()[0]}")
    progress(f"resolving the foundation for {state.request.backend}")
    chosen, notes = make_plan(state, detail=detail)
    try:
        return _build_planned(state, chosen, clock=clock, progress=progress), list(notes)
    except PackageIndexError as error:  # resolved by a cached page of the index, which then lacks a file
        overlay = state.project.overlay(state.request.backend)
        expired = planning.expired(state.project, state.uv, overlay, error)
        if expired is None:
            raise
        raise expired from error


def make_plan(state: State, *, detail: Progress) -> tuple[Plan, tuple[str, ...]]:
    """A new plan; as far as the indexes tell, nothing of the foundation overwrites another's files."""
    if state.opened is not None:
        return unbundle.plan_for(state.project, state.opened), ()
    target = planning.Target(
        backend=state.request.backend,
        platform=state.machine.platform,
        interpreter=state.wanted.interpreter,
        elsewhere=state.request.described,
        extras=state.wanted.extras,
    )
    chosen, notes = planning.make_plan(state.project, state.uv, target)
    if state.wanted.verify is not Verify.NONE:
        planning.refuse_collisions(state.project, state.uv, chosen, detail=detail)
    return chosen, notes


def _build_bundled(state: State, opened: unbundle.Opened, *, clock: Clock, progress: Progress) -> Generation:
    chosen = unbundle.plan_for(state.project, opened)
    try:
        return _build_planned(state, chosen, clock=clock, progress=progress)
    except MlenvError:
        unbundle.require_whole(opened, chosen)
        raise


def _build_planned(state: State, chosen: Plan, *, clock: Clock, progress: Progress) -> Generation:
    clock.phase("plan")
    once = partial(
        build.build,
        state.project,
        state.uv,
        state.wanted,
        chosen,
        inputs=state.inputs,
        machine=state.machine,
        refusal=partial(
            gate.failure,
            rebuild=state.request.again(rebuild=True),
            clean=partial(uv_module.cache_clean, state.uv),
            stands=state.request.environment.path.exists(),
        ),
        clock=clock,
        progress=progress,
    )
    return build.healing(state.uv, once, progress=progress)
