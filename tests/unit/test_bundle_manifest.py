"""What a bundle holds, as text and as values."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv import bundle, plan
from mlenv.bundle import Bundle, File, Part
from mlenv.errors import FindingError, IntegrityError, ProjectError
from mlenv.lockfile import Pin
from mlenv.plan import APPLICATION, FOUNDATION, Plan, Planned

WORDS = st.text(string.ascii_lowercase + string.digits + "-_é", min_size=1, max_size=8)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
FILES = st.builds(
    File,
    path=st.lists(WORDS, min_size=1, max_size=3).map("/".join),
    sha256=HASHES,
    size=st.integers(0, 10**10),
    source=st.one_of(st.just(""), HASHES),
)
PARTS = st.builds(
    Part,
    backend=WORDS,
    platform=WORDS,
    plan=WORDS,
    source=WORDS,
    foundation=st.lists(WORDS).map(tuple),
    inputs=st.dictionaries(WORDS, HASHES),
)
BUNDLES = st.builds(
    Bundle,
    made_by=WORDS,
    python=st.sampled_from(["3.11", "3.14"]),
    channel=st.sampled_from(["stable", "nightly"]),
    parts=st.lists(PARTS).map(tuple),
    files=st.lists(FILES).map(tuple),
)


@given(BUNDLES)
def test_what_is_written_is_read_back(made: Bundle) -> None:
    assert bundle.parse(bundle.render(made), shown="b") == made


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"schema": "x"}', '{"schema": 1, "parts": [], "files": [{"path": "a"}]}'],
)
def test_what_is_no_manifest_is_a_damaged_bundle(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        bundle.parse(text, shown="carried")
    assert caught.value.where == "carried/bundle.json"


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_file_outside_the_bundle_is_refused(path: str) -> None:
    text = bundle.render(made_of(File(path=path, sha256="0" * 64, size=1)))
    with pytest.raises(IntegrityError, match="no path in it"):
        bundle.parse(text, shown="carried")


def test_a_newer_bundle_asks_for_its_mlenv() -> None:
    text = bundle.render(made_of()).replace('"schema": 1', '"schema": 2')
    with pytest.raises(ProjectError, match=r"newer mlenv \(mlenv 9\)"):
        bundle.parse(text, shown="carried")


def made_of(*files: File) -> Bundle:
    part = Part(
        backend="cu130",
        platform="linux-x86_64",
        plan="plans/pylock.cu130-linux-x86_64.toml",
        source="default",
        foundation=("torch",),
        inputs={"lock": "1", "overlay": "2"},
    )
    return Bundle(made_by="mlenv 9", python="3.11", channel="stable", parts=(part,), files=files)


@pytest.mark.parametrize(
    ("python", "channel", "backend", "told"),
    [
        ("3.12", "stable", "cu130", "made for Python 3.11, the lock for Python 3.12"),
        ("3.11", "nightly", "cu130", "of the stable channel"),
        ("3.11.4", "stable", "cpu", "holds nothing for cpu on linux-x86_64; it is for cu130 on linux-x86_64"),
    ],
)
def test_a_bundle_for_something_else_says_what_it_is_for(python: str, channel: str, backend: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        made_of().part(backend, platform="linux-x86_64", python=python, channel=channel, shown="b")  # type: ignore[arg-type]


def test_every_input_that_differs_is_named_one_that_is_there_on_one_side_too() -> None:
    [part] = made_of().parts
    bundle.require_same(part, {"lock": "1", "overlay": "2"}, names={}, shown="b")
    with pytest.raises(FindingError, match=r"requirements\.txt, record differ"):
        bundle.require_same(
            part, {"lock": "9", "overlay": "2", "record": "3"}, names={"lock": "requirements.txt"}, shown="b"
        )


def test_two_files_of_one_name_are_kept_apart() -> None:
    assert bundle.place("wheels", "a.whl", "f" * 64, taken={}) == "wheels/a.whl"
    assert bundle.place("wheels", "a.whl", "f" * 64, taken={"wheels/a.whl": "f" * 64}) == "wheels/a.whl"
    other = bundle.place("wheels", "a.whl", "f" * 64, taken={"wheels/a.whl": "e" * 64})
    assert other == "wheels/ffffffffffffffff/a.whl"


URL = "https://user:secret@index.invalid/files/demo-1.0-py3-none-any.whl"
TABLES = [
    {"wheels": [{"url": URL, "hashes": {"sha256": "a" * 64}}], "sdist": {"url": URL}, "index": "https://index.invalid"},
    {"archive": {"url": URL, "hashes": {"sha256": "a" * 64}}},
]


@pytest.mark.parametrize("table", TABLES)
def test_a_plan_in_a_bundle_has_paths_alone_and_becomes_urls_of_its_folder(
    table: dict[str, object], tmp_path: Path
) -> None:
    package = Planned(name="demo", version="1.0", layer=APPLICATION, table={"name": "demo", "version": "1.0", **table})
    file = File(path="wheels/demo-1.0-py3-none-any.whl", sha256="a" * 64, size=7)
    [part] = made_of().parts
    carried = Plan(backend="cu130", source="default", packages=(bundle.carried(package, [file]),))
    text = plan.to_toml(carried, python="3.11")
    assert "http" not in text
    folder = tmp_path / "a folder"
    read = bundle.plan_of(text, part, folder)
    [found] = read.packages
    [there] = found.table.get("wheels") or [found.table["archive"]]
    assert there["url"] == (folder / "wheels/demo-1.0-py3-none-any.whl").as_uri()
    assert there["hashes"] == {"sha256": "a" * 64}


def test_only_what_was_built_may_be_no_file_of_the_lock() -> None:
    table = {"name": "demo", "version": "1.0", "wheels": [{"hashes": {"sha256": "a" * 64}}]}
    chosen = Plan(
        backend="cu130",
        source="default",
        packages=(
            Planned(name="demo", version="1.0", layer=APPLICATION, table=table),
            Planned(name="torch", version="2.0", layer=FOUNDATION, table=table),
        ),
    )
    listed, other = (Pin(name="demo", version="1.0", hashes=(f"sha256:{sign * 64}",)) for sign in "ab")
    bundle.require_locked(chosen, [listed], built=(), shown="b")
    bundle.require_locked(chosen, [other], built=("demo",), shown="b")
    for pins in ([other], []):
        with pytest.raises(IntegrityError, match=r"demo 1\.0 in the bundle is no file that the lock lists"):
            bundle.require_locked(chosen, pins, built=(), shown="b")
