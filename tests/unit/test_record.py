"""Records as text and back, and what they are held to."""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.pylock import Pylock

from mlenv import record
from mlenv.errors import FindingError, IntegrityError, ProjectError
from mlenv.overlay import Constraint, Overlay
from mlenv.record import Record

PATH = "constraints/pylock.cu130.toml"
DAY = date(2026, 11, 25)


def table(name: str, version: str, digest: str, **more: Any) -> dict[str, Any]:
    url = f"https://files.invalid/{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return {"name": name, "version": version, "wheels": [{"url": url, "hashes": {"sha256": digest}}], **more}


def made(**by_platform: list[dict[str, Any]]) -> Record:
    named = {name.replace("_", "-", 1): tables for name, tables in by_platform.items()}
    sources = dict.fromkeys(named, "pytorch-cu130")
    return record.made_of(
        named, backend="cu130", channel="stable", python="3.11", sources=sources, path=PATH, today=DAY
    )


def overlay(*pins: str) -> Overlay:
    from packaging.requirements import Requirement

    lines = tuple(Constraint(requirement=Requirement(pin), line=n) for n, pin in enumerate(pins, start=1))
    return Overlay(backend="cu130", path="constraints/cu130.txt", constraints=lines)


def test_credentials_and_tokens_are_cut_off() -> None:
    secret = table("torch", "2.14.1", "a" * 64, index="https://me:s3cret@mirror.invalid/simple")
    secret["wheels"][0]["url"] = "https://me:s3cret@mirror.invalid/torch-2.14.1-py3-none-any.whl?token=s3cret"
    text = record.render(made(linux_x86_64=[secret]))
    assert "s3cret" not in text
    assert "https://mirror.invalid/torch-2.14.1-py3-none-any.whl" in text


def test_what_is_on_some_platforms_alone_gets_a_marker() -> None:
    both = made(
        linux_x86_64=[table("torch", "2.14.1", "a" * 64), table("triton", "3.8.0", "b" * 64)],
        windows_x86_64=[table("torch", "2.14.1", "c" * 64)],
    )
    assert both.on("linux-x86_64").keys() == {"torch", "triton"}
    assert both.on("windows-x86_64").keys() == {"torch"}
    assert both.on("linux-x86_64")["torch"].hashes == {"a" * 64, "c" * 64}


_VERSIONS = st.sampled_from(["1.0", "2.14.1+cu130", "2.16.0.dev20261120"])
_NAMES = st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,4})?", fullmatch=True)
_DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
_TABLES = st.lists(
    st.builds(table, _NAMES, _VERSIONS, _DIGESTS), max_size=4, unique_by=lambda one: (one["name"], one["version"])
)


@given(_TABLES, _TABLES)
def test_a_record_reads_back_as_it_was_and_is_a_lock_of_pep_751(linux: list[Any], windows: list[Any]) -> None:
    before = made(linux_x86_64=linux, windows_x86_64=windows)
    text = record.render(before)
    after = record.parse(text, path=PATH)
    assert record.unchanged(before, after)
    assert record.render(after) == text
    assert len(Pylock.from_dict(tomllib.loads(text)).packages) == len(before.packages)
    assert tomllib.loads(text)["requires-python"] == "==3.11.*"  # its wheels are of that Python alone


def test_neither_date_nor_url_is_in_the_digest() -> None:
    one, other = table("torch", "2.14.1", "a" * 64), table("torch", "2.14.1", "a" * 64)
    other["wheels"][0]["url"] = "https://mirror.invalid/torch-2.14.1-py3-none-any.whl"
    assert record.digest_text(made(linux_x86_64=[one])) == record.digest_text(made(linux_x86_64=[other]))


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        (("torch==2.13.0",), "pins torch==2.13.0, the record has 2.14.1+cu130"),
        (("torch==2.14.1", "torchaudio==2.11.0"), "pins torchaudio==2.11.0, the record lacks torchaudio"),
    ],
)
def test_an_overlay_that_pins_something_else_does_not_fit(pins: tuple[str, ...], told: str) -> None:
    found = made(linux_x86_64=[table("torch", "2.14.1+cu130", "a" * 64)])
    with pytest.raises(FindingError) as caught:
        found.require_fit(overlay(*pins), platform="linux-x86_64", python="3.11")
    assert told in caught.value.message


@pytest.mark.parametrize("pin", ["torch==2.14.1", "torch==2.14.1+cu130", "torch==2.13.0; sys_platform == 'win32'"])
def test_a_label_or_a_marker_for_elsewhere_is_no_difference(pin: str) -> None:
    found = made(linux_x86_64=[table("torch", "2.14.1+cu130", "a" * 64)])
    found.require_fit(overlay(pin), platform="linux-x86_64", python="3.11.4")


@pytest.mark.parametrize(("platform", "python"), [("windows-x86_64", "3.11"), ("linux-x86_64", "3.12")])
def test_another_target_is_refused(platform: str, python: str) -> None:
    found = made(linux_x86_64=[table("torch", "2.14.1", "a" * 64)])
    with pytest.raises(ProjectError):
        found.require_fit(overlay("torch==2.14.1"), platform=platform, python=python)


def test_only_the_recorded_file_of_a_release_is_taken() -> None:
    found = made(linux_x86_64=[table("torch", "2.14.1", "a" * 64)])
    offered = table("torch", "2.14.1", "b" * 64)
    with pytest.raises(IntegrityError):
        found.held("torch", offered, platform="linux-x86_64")
    offered["wheels"] += table("torch", "2.14.1", "a" * 64)["wheels"]
    offered["sdist"] = {"hashes": {"sha256": "c" * 64}}
    held = found.held("torch", offered, platform="linux-x86_64")
    assert [wheel["hashes"]["sha256"] for wheel in held["wheels"]] == ["a" * 64]
    assert "sdist" not in held


def test_a_package_without_a_wheel_can_not_be_recorded() -> None:
    with pytest.raises(ProjectError, match="has no wheel"):
        made(linux_x86_64=[{"name": "odd", "version": "1.0", "sdist": {"hashes": {"sha256": "a" * 64}}}])


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (PATH, "`mlenv foundation record --backend cu130` writes it anew"),
        ("constraints/pylock.nightly-cu132.toml", "`mlenv foundation record --nightly --backend cu132` writes it anew"),
        ("other.toml", "`mlenv foundation record` writes it anew"),
    ],
)
def test_conflict_markers_are_named_with_the_command_that_writes_the_record_anew(path: str, command: str) -> None:
    text = record.render(made(linux_x86_64=[table("torch", "2.14.1", "a" * 64)])) + "<<<<<<< HEAD\n"
    with pytest.raises(ProjectError, match="a conflict marker of git was left") as caught:
        record.parse(text, path=path)
    assert caught.value.line == text.count("\n")
    assert caught.value.hint == command


def test_a_record_in_the_place_of_another_is_told() -> None:
    found = made(linux_x86_64=[table("torch", "2.14.1", "a" * 64)])
    assert found.require_of("cu130", "stable") is found
    with pytest.raises(ProjectError, match="cu130 of the stable channel, and its name is that of cu132") as caught:
        found.require_of("cu132", "stable")
    assert "`mlenv foundation record --backend cu132`" in str(caught.value.hint)


def test_a_record_with_other_hashes_than_sha256_is_none() -> None:
    text = record.render(made(linux_x86_64=[table("torch", "2.14.1", "a" * 64)])).replace("sha256", "sha512")
    with pytest.raises(ProjectError, match="the sha256 of torch"):
        record.parse(text, path=PATH)
