"""What a plugin may say, and what it is worth in a choice; the plugin is the example package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlenv.backend import Automatic, Choice, choose
from mlenv.catalogue import Catalogue, load
from mlenv.errors import NoBackendError, ProjectError
from mlenv.location import may_be_brought
from mlenv.machine import Gpu, Machine
from mlenv.plugins import Plugin, Plugins, checked, with_facts, with_rows, without_rivals

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"
OWN: dict[str, Any] = {"backend": [{"name": "own1"}]}
DECLARED: dict[str, str | None] = {"cpu": "2.15.0", "cu132": "2.15.0", "acme132": "2.15.0", "rocm7.1": "2.15.0"}
H100 = Gpu(index=0, name="H100", uuid="", memory_mib=None, compute_capability=(9, 0), visible=True)
NO_GPU = Machine(os="linux", arch="x86_64")


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delitem(sys.modules, "mlenv_acme", raising=False)
    import mlenv_acme

    assert isinstance(mlenv_acme, ModuleType)
    return checked("acme", "mlenv-acme 1.0", mlenv_acme)


@pytest.fixture
def catalogue(acme: Plugin) -> Catalogue:
    return with_rows(Plugins(usable=(acme,)), {})


def _machine(*gpus: Gpu, **facts: str) -> Machine:
    told = {f"acme.{name}": value for name, value in facts.items()}
    return Machine(os="linux", arch="x86_64", driver="595.45.04", cuda=(13, 2), gpus=gpus, facts=told)


def _choose(catalogue: Catalogue, machine: Machine, declared: dict[str, str | None] = DECLARED) -> Choice:
    return choose(catalogue=catalogue, machine=machine, declared=declared, request=Automatic())


def _why_not(choice: Choice, backend: str) -> str:
    return next(other.reason for other in choice.passed_over if other.backend == backend)


def test_its_backends_and_releases_are_known(catalogue: Catalogue) -> None:
    assert catalogue.backend("acme132").brought_by == "mlenv-acme 1.0"
    newest = catalogue.newest_release("rocm7.1")
    assert newest is not None
    assert (newest.torch, newest.torchvision) == ("2.15.0", "0.29.2")  # what mlenv knows of that torch
    assert catalogue.index_url("acme132") == "https://wheels.acme.example/simple"
    assert catalogue.index_url("rocm7.1").endswith("/whl/rocm7.1")


def test_it_takes_nothing_from_what_mlenv_knows(catalogue: Catalogue) -> None:
    assert set(load().releases[0].backends) < set(catalogue.releases[0].backends)
    assert [r.torch for r in catalogue.releases] == [r.torch for r in load().releases]
    assert catalogue.backend("cu132") == load().backend("cu132")


def test_its_build_wins_over_an_equal_one_where_it_says_that_it_runs(catalogue: Catalogue) -> None:
    choice = _choose(catalogue, _machine(H100, board="X1"))
    assert choice.backend == "acme132"
    assert choice.reasons[0].endswith("mlenv-acme 1.0 brings it for such machines")
    assert _why_not(choice, "cu132") == "acme132 is as new, and mlenv-acme 1.0 brings it for such machines"


def test_without_rows_of_code_its_build_wins_all_the_same_and_a_note_says_what_was_judged() -> None:
    """The how-to's own package: nothing in it says which GPUs acme132 has code for."""
    rows = {
        "backend": [{"name": "acme132", "cuda": "13.2"}],
        "release": [{"torch": "2.15.0", "backends": ["acme132"]}],
    }
    for runs, judged in ((lambda backend, machine: None, "mlenv-acme 1.0 says"), (None, "only the driver")):
        plugin = checked("acme", "mlenv-acme 1.0", SimpleNamespace(catalogue=rows, runs=runs))
        choice = _choose(with_rows(Plugins(usable=(plugin,)), {}), _machine(H100))
        assert choice.backend == "acme132"
        assert _why_not(choice, "cu132") == "acme132 is as new, and mlenv-acme 1.0 brings it for such machines"
        assert [judged in note for note in choice.notes] == [True]


def test_its_build_is_passed_over_with_its_own_reason(catalogue: Catalogue) -> None:
    choice = _choose(catalogue, _machine(H100))
    assert choice.backend == "cu132"
    assert _why_not(choice, "acme132") == "this is no board of Acme's"
    assert _why_not(choice, "rocm7.1") == "no AMD GPU is there"


def test_what_is_no_cuda_build_comes_before_the_cpu(catalogue: Catalogue) -> None:
    choice = _choose(catalogue, _machine(gfx="gfx942"))
    assert (choice.backend, choice.reasons) == ("rocm7.1", ("mlenv-acme 1.0 says that it runs here",))
    assert _why_not(choice, "cpu") == "rocm7.1 runs here, and no NVIDIA GPU is visible"
    assert _choose(catalogue, _machine(gfx="gfx900")).backend == "cpu"


def test_a_cuda_build_that_runs_comes_before_it(catalogue: Catalogue) -> None:
    assert _choose(catalogue, _machine(H100, gfx="gfx942")).backend == "cu132"


def test_where_no_cuda_build_fits_it_is_taken(catalogue: Catalogue) -> None:
    declared = {name: DECLARED[name] for name in ("cpu", "rocm7.1")}
    assert _choose(catalogue, _machine(H100, gfx="gfx942"), declared).backend == "rocm7.1"
    with pytest.raises(NoBackendError):
        _choose(catalogue, _machine(H100), declared)


def test_a_file_for_another_machine_carries_the_facts(acme: Plugin, tmp_path: Path) -> None:
    from mlenv.machine import from_json

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/acme-board").write_text("X1\n")
    seen = with_facts(NO_GPU, Plugins(usable=(acme,)), {"ACME_GFX": "gfx942"}, root=tmp_path)
    assert seen.facts == {"acme.board": "X1", "acme.gfx": "gfx942"}
    assert from_json(seen.as_json()) == seen


@pytest.mark.parametrize(("name", "may"), [("cpu", False), ("cu132", False), ("rocm7.1", True), ("acme132", True)])
def test_names_that_mlenv_reads_by_rule_are_nobodys(name: str, may: bool) -> None:
    assert may_be_brought(name) is may


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({}, "catalogue must be a table"),
        ({"catalogue": {"backends": []}}, "catalogue.backends is an unknown key"),
        ({"catalogue": {"backend": [{"name": "cu132"}]}}, "has cu132, a name that mlenv reads by rule"),
        ({"catalogue": {"backend": [{"nme": "x"}]}}, "catalogue.backend[1].nme is an unknown key"),
        (
            {"catalogue": {**OWN, "release": [{"torch": "2.15.0", "backends": ["cu130"]}]}},
            "catalogue.release[1].backends has cu130, which it doesn't bring",
        ),
        (
            {"catalogue": {**OWN, "release": [{"torch": "2.15.0", "pypi": {"linux-x86_64": "cpu"}}]}},
            "catalogue.release[1].pypi has cpu, which it doesn't bring",
        ),
        (
            {"catalogue": {**OWN, "release": [{"torch": "2.99.0", "backends": ["own1"]}]}},
            "catalogue.release[1] 2.99.0 is new and has no torchvision",
        ),
        ({"catalogue": OWN, "foundation": {"names": []}}, "foundation must be a mapping"),
        ({"catalogue": OWN, "foundation": {"exact": [1]}}, "foundation.exact must be a list of names"),
        ({"catalogue": OWN, "runs": True}, "runs must be a function"),
    ],
)
def test_rubbish_is_refused_with_the_packages_name(named: dict[str, Any], told: str) -> None:
    with pytest.raises(ProjectError) as caught:
        checked("own", "mlenv-own 2.0", SimpleNamespace(**named))
    assert caught.value.message.startswith("the plugin own of mlenv-own 2.0: ")
    assert told in caught.value.message


@pytest.mark.parametrize("answer", [False, "", 3])
def test_an_answer_that_is_none_is_a_reason_against_it(answer: object) -> None:
    named = SimpleNamespace(catalogue=OWN, runs=lambda backend, machine: answer)
    runs = checked("own", "mlenv-own 2.0", named).runs
    assert runs is not None
    assert "mlenv-own 2.0 doesn't tell" in str(runs("own1", NO_GPU))


def test_a_question_that_fails_is_a_reason_against_it() -> None:
    def fails(backend: str, machine: Machine) -> str | None:
        raise KeyError("board")

    runs = checked("own", "mlenv-own 2.0", SimpleNamespace(catalogue=OWN, runs=fails)).runs
    assert runs is not None
    assert runs("own1", NO_GPU) == "mlenv-own 2.0 fails to tell whether it runs here: KeyError: 'board'"


@pytest.mark.parametrize("seen", [{"x": 1}, None])
def test_a_look_that_fails_is_a_finding(seen: object) -> None:
    plugin = checked("own", "mlenv-own 2.0", SimpleNamespace(catalogue=OWN, observe=lambda environ, root: seen))
    found = with_facts(NO_GPU, Plugins(usable=(plugin,)), {}, root=Path("/")).findings
    assert [(one.kind, one.package) for one in found] == [("plugin-broken", "mlenv-own")]
    assert found[0].hint == "upgrade mlenv-own, or take it out: uv pip uninstall mlenv-own"


def test_two_that_bring_one_backend_are_told_apart() -> None:
    one = checked("own", "mlenv-own 2.0", SimpleNamespace(catalogue=OWN))
    two = checked("too", "mlenv-too 1.0", SimpleNamespace(catalogue=OWN))
    both = without_rivals([one, two])
    assert both.usable == (one,)
    assert both.findings[0].message == "mlenv-too 1.0 and mlenv-own 2.0 both bring a backend own1"
    with pytest.raises(ProjectError, match="both bring a backend own1"):
        both.refuse_broken()
