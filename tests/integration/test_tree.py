"""``mlenv tree`` and ``mlenv why``: both layers, for backends that are not installed here, with the real uv."""

from __future__ import annotations

from support.index import Dropped, LoopbackIndex
from support.interpreter import ProjectFactory, RunProgram
from support.wheels import Package
from support.world import make_world


def test_who_brings_what(index: LoopbackIndex, project: ProjectFactory, run_mlenv: RunProgram) -> None:
    world = make_world(index, project, run_mlenv)
    world.publish(Package("needy", "1.0", requires=("mpmath", "torch>=2")))
    folder = world.root / "libs/own"
    folder.mkdir(parents=True)
    text = '[project]\nname = "my-library"\nversion = "1"\ndependencies = ["needy"]\n'
    (folder / "pyproject.toml").write_text(text)
    (world.root / "requirements.in").write_text("-e ./libs/own\n-c limits.txt\n")
    (world.root / "limits.txt").write_text("mpmath<5\n")
    assert world.run("lock").code == 0

    done = world.run("why", "mpmath", "--cpu")
    pinned = (world.root / "requirements.txt").read_text().split("\n").index("mpmath==1.3.0 \\") + 1
    assert (
        done.out
        == f"""\
mpmath 1.3.0: application, pinned by requirements.txt:{pinned}
  bounded by limits.txt:1 (mpmath<5)
  requirements.in:1 my-library → needy → mpmath
  constraints/cpu.txt:1 torch → sympy → mpmath
  constraints/cpu.txt:2 torchvision → torch → sympy → mpmath
  requirements.in:1 my-library → needy → torch → sympy → mpmath
"""
    )
    found = world.json("tree", "--backend", "cu130")
    packages = {package["name"]: package for package in found["packages"]}
    assert found["whole"]
    assert packages["nvidia-cublas"]["layer"] == "foundation"
    assert packages["nvidia-cublas"]["required_by"] == ["cuda-toolkit"]
    assert packages["torch"]["required_by"] == ["needy", "torchvision"]
    assert packages["my-library"]["layer"] == "local project"

    elsewhere = world.run("why", "nvidia-cublas", "--cpu")
    assert elsewhere.code == 1
    assert "`mlenv why --backend cu130 nvidia-cublas`" in elsewhere.err
    assert "did you mean mpmath?" in world.run("why", "mpmat", "--cpu").err

    assert world.run("foundation", "record", "--backend", "cu130").code == 0
    world.publish(Package("nvidia-cublas", "13.0.9.9"))
    recorded = {package["name"]: package for package in world.json("tree", "--backend", "cu130")["packages"]}
    assert recorded["nvidia-cublas"]["version"] == packages["nvidia-cublas"]["version"]
    (world.root / "constraints/pylock.cu130.toml").unlink()
    newer = {package["name"]: package for package in world.json("tree", "--backend", "cu130")["packages"]}
    assert newer["nvidia-cublas"]["version"] == "13.0.9.9"

    # Nobody answers and nothing is cached: what the lock and the overlay say.
    empty = {"UV_CACHE_DIR": str(world.home / "empty")}
    for name in ("pypi", "pytorch-cpu", "pytorch-cu130"):
        index.fail(name, Dropped())
    known = world.run("why", "mpmath", "--cpu", env=empty)
    assert "constraints/cpu.txt:1 torch → sympy → mpmath" in known.out
    assert "warning: what needs the foundation" in known.out
    assert "torchvision → torch" not in known.out
    lost = world.run("why", "nvidia-cublas", "--backend", "cu130", env=empty)
    assert (lost.code, "nvidia-cublas is foundation, and what needs" in lost.err) == (1, True), lost
