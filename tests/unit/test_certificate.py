"""Certificates as text and back, and what can be wrong with one."""

from __future__ import annotations

import pytest

from mlenv import certificate
from mlenv.certificate import Certificate, Verdict
from mlenv.errors import ProjectError

PATH = "fleet-certificate.json"
NODE = Verdict(
    file="fleet/node 1.json", platform="linux-x86_64", cards=("H100 (9.0)",), backend="cu130", torch="2.14.1"
)
OLD = Verdict(file="fleet/old.json", platform="linux-x86_64", cards=(), problems=("no code for 6.1",), hint="buy one")
MADE = Certificate(
    inputs={"requirements.txt": "sha256:1", NODE.file: "sha256:2", OLD.file: "sha256:3"}, verdicts=(NODE, OLD)
)


def test_it_reads_back_as_it_was() -> None:
    assert certificate.parse(certificate.render(MADE), path=PATH) == MADE


@pytest.mark.parametrize(
    ("old", "new"), [("no code for 6.1", "none"), ("sha256:1", "sha256:9"), ('"verdict": "bad"', '"verdict": "good"')]
)
def test_a_change_by_hand_is_seen(old: str, new: str) -> None:
    edited = certificate.parse(certificate.render(MADE).replace(old, new), path=PATH)
    kinds = [finding.kind for finding in certificate.stale(edited, edited.inputs, path=PATH)]
    assert "certificate-edited" in kinds


def test_other_white_space_is_no_change() -> None:
    assert certificate.parse(certificate.render(MADE).replace("\n", "\n  "), path=PATH).as_written


def test_conflict_markers_are_named_with_the_command_that_writes_it_anew() -> None:
    lines = certificate.render(MADE).splitlines()
    text = "\n".join([*lines[:3], "<<<<<<< HEAD", *lines[3:]])
    with pytest.raises(ProjectError, match="a conflict marker of git was left") as caught:
        certificate.parse(text, path=PATH)
    assert caught.value.line == 4
    assert caught.value.hint == "`mlenv fleet check 'fleet/node 1.json' fleet/old.json` writes it anew"


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not valid JSON"), ("{}", "is no certificate of a fleet"), ("[]", "is no certificate")]
)
def test_what_is_no_certificate_is_told_in_words(text: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        certificate.parse(text, path=PATH)
