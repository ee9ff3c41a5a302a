"""``mlenv outdated``: what is newer, and what holds it back, with the real uv against loopback indexes."""

from __future__ import annotations

from support.index import LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Build, Package
from support.world import make_world


def test_what_is_newer_and_what_holds_it_back(
    index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram
) -> None:
    world = make_world(index, project, run_mlenv)
    world.publish(Package("mine", "1.0"), Package("dep", "1.0"), Package("fresh", "1.0"), Package("engine", "1.0"))
    world.publish(Package("needy", "1.0", requires=("dep<2",)), Package("tool", "1.0"))
    (world.root / "requirements.in").write_text("mine<2  # for now\nneedy\nfresh\nengine\ndemo-app\ntool\n")
    assert world.run("lock").code == 0
    world.publish(Package("mine", "2.0"), Package("dep", "2.0"), Package("fresh", "1.1"), Package("sympy", "2.0"))
    world.publish(Package("engine", "2.0", requires=("torch==2.13.0",)), Package("mpmath", "1.4.0rc1"))
    overlay = world.root / "constraints/cpu.txt"
    overlay.write_text(overlay.read_text() + "sympy<2\n")
    assert world.run("lock").code == 0
    before = (world.root / "requirements.txt").read_bytes()
    found = world.json("outdated")
    rows = {row["name"]: (row["locked"], row["fits"], row["newest"], row["held_by"]) for row in found["outdated"]}
    line = overlay.read_text().splitlines().index("sympy<2") + 1
    assert rows == {
        "mine": ("1.0", "1.0", "2.0", ["requirements.in:1 (mine<2)"]),
        "dep": ("1.0", "1.0", "2.0", ["needy 1.0 needs dep<2"]),
        "fresh": ("1.0", "1.1", "1.1", []),
        "engine": ("1.0", "1.0", "2.0", ["cpu and cu130 pin torch==2.14.1, engine 2.0 needs torch==2.13.0"]),
        "sympy": ("1.14.0", "1.14.0", "2.0", [f"constraints/cpu.txt:{line} (sympy<2)"]),
    }

    world.publish(Package("tool", "2.0", kind="sdist", build=Build(static=False)))
    direct = world.run("outdated", "--direct")
    shown = direct.out.split("\n\n")[0].splitlines()
    assert "warning: what `mlenv lock -U` would take is not known: cpu: tool==2.0 has no wheel" in shown[0]
    assert [line.split()[:4] for line in shown[3:]] == [
        ["engine", "1.0", "?", "2.0"],
        ["fresh", "1.0", "?", "1.1"],
        ["mine", "1.0", "?", "2.0"],
        ["tool", "1.0", "?", "2.0"],
    ]
    assert "tool==2.0 has no wheel" in shown[-1]
    assert (world.root / "requirements.txt").read_bytes() == before
