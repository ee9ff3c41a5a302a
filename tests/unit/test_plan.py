from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from packaging.pylock import Pylock

from mlenv import plan
from mlenv.errors import FindingError, IntegrityError, ResolutionError
from mlenv.lockfile import Pin
from mlenv.resolution import Resolved, Source

GOOD, OTHER = "a" * 64, "b" * 64


def wheel(name: str, digest: str = GOOD, *, tag: str = "py3-none-any", size: int = 10) -> dict[str, Any]:
    url = f"https://files.example/{name}-1.0-{tag}.whl"
    return {"url": url, "size": size, "hashes": {"sha256": digest}}


def table(name: str, version: str = "1.0", **changes: Any) -> dict[str, Any]:
    found = {"name": name, "version": version, "wheels": [wheel(name)], **changes}
    return {key: value for key, value in found.items() if value is not None}


def pin(name: str, version: str = "1.0", *, digest: str = GOOD, via: tuple[str, ...] = ()) -> Pin:
    return Pin(name=name, version=version, hashes=(f"sha256:{digest}",), via=via, index="https://index.example/simple")


def resolved(
    *, foundation: tuple[Pin, ...] = (), application: tuple[Pin, ...] = (), files: Mapping[str, dict[str, Any]]
) -> Resolved:
    return Resolved(
        backend="cu130", source=Source(index="x"), foundation=foundation, application=application, files=files
    )


def test_both_layers_are_planned_and_the_foundation_needs_no_pin() -> None:
    both = resolved(
        foundation=(pin("torch", "2.14.1+cu130"),),
        application=(pin("sympy"),),
        files={"torch": table("torch", "2.14.1+cu130"), "sympy": table("sympy")},
    )
    made = plan.make(both, lock=[pin("sympy")], built=())
    assert [(package.name, package.layer) for package in made.packages] == [
        ("sympy", plan.APPLICATION),
        ("torch", plan.FOUNDATION),
    ]
    assert made.version("torch") == "2.14.1+cu130"
    assert made.version("absent") is None
    assert [package.name for package in made.layer(plan.FOUNDATION)] == ["torch"]


def test_only_files_whose_hash_the_lock_knows_are_planned() -> None:
    files = {"a": table("a", wheels=[wheel("a", OTHER), wheel("a", GOOD, tag="cp311-cp311-linux_x86_64")])}
    made = plan.make(resolved(application=(pin("a"),), files=files), lock=[pin("a")], built=())
    assert [file["hashes"]["sha256"] for file in made.packages[0].table["wheels"]] == [GOOD]


def test_a_release_whose_files_are_all_others_is_refused() -> None:
    files = {"a": table("a", wheels=[wheel("a", OTHER)])}
    with pytest.raises(IntegrityError, match=r"a==1\.0: no file that the index offers has a hash that the lock lists"):
        plan.make(resolved(application=(pin("a"),), files=files), lock=[pin("a")], built=())


def test_a_package_that_the_lock_lacks_is_named_with_who_needs_it() -> None:
    found = resolved(application=(pin("a", via=("b", "c")),), files={"a": table("a")})
    with pytest.raises(FindingError, match="the lock lacks a, which b and c needs on cu130"):
        plan.make(found, lock=[], built=())


def test_a_personal_addition_needs_no_pin() -> None:
    found = resolved(application=(pin("a"),), files={"a": table("a")})
    assert plan.make(found, lock=[], built=(), extra={"a"}).packages[0].layer == plan.APPLICATION


def test_another_version_than_the_locks_is_refused() -> None:
    found = resolved(application=(pin("a", "2.0"),), files={"a": table("a", "2.0")})
    with pytest.raises(FindingError, match=r"a resolved to 2\.0, the lock says 1\.0"):
        plan.make(found, lock=[pin("a")], built=())


@pytest.mark.parametrize(("built", "refused"), [((), True), (("a",), False)])
def test_a_source_distribution_is_planned_only_where_it_may_be_built(built: tuple[str, ...], refused: bool) -> None:
    files = {"a": table("a", wheels=None, sdist={"url": "https://files.example/a.tar.gz", "hashes": {"sha256": GOOD}})}
    found = resolved(application=(pin("a"),), files=files)
    if not refused:
        assert plan.make(found, lock=[pin("a")], built=built).packages[0].size == 0
        return
    with pytest.raises(ResolutionError, match=r"a 1\.0 has no wheel") as caught:
        plan.make(found, lock=[pin("a")], built=built)
    assert caught.value.hint is not None
    assert 'build = ["a"]' in caught.value.hint


@pytest.mark.parametrize(("index", "kept"), [("https://index.example/simple", True), ("file:///wheels", False)])
def test_a_package_names_its_index_so_that_the_cache_is_used(index: str, kept: bool) -> None:
    one = Pin(name="a", version="1.0", hashes=(f"sha256:{GOOD}",), index=index)
    made = plan.make(resolved(application=(one,), files={"a": table("a", marker="x")}), lock=[one], built=())
    assert made.packages[0].table.get("index") == (index if kept else None)
    assert "marker" not in made.packages[0].table


def test_a_plan_is_read_back_as_it_was_written_and_is_valid_pep_751() -> None:
    both = resolved(
        foundation=(pin("torch"),), application=(pin("a"),), files={"torch": table("torch"), "a": table("a", size=None)}
    )
    made = plan.make(both, lock=[pin("a")], built=())
    text = plan.to_toml(made, python="3.11")
    Pylock.from_dict(tomllib.loads(text)).validate()
    assert plan.from_toml(text, backend="cu130", source="x", foundation={"torch"}) == made
    record = Pylock.from_dict(tomllib.loads(plan.to_toml(made, layer=plan.FOUNDATION, python="3.11")))
    assert [str(package.name) for package in record.packages] == ["torch"]


def test_the_size_is_that_of_the_first_file() -> None:
    made = plan.make(resolved(foundation=(pin("a"),), files={"a": table("a")}), lock=[], built=())
    assert made.packages[0].size == 10
