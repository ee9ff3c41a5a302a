from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv.errors import ProjectError
from mlenv.machine import Gpu, Machine, from_json, parse, visible_devices
from mlenv.report import Finding

H100 = Gpu(index=0, name="NVIDIA H100", uuid="GPU-1", memory_mib=81559, compute_capability=(9, 0), visible=True)
HIDDEN = Gpu(index=1, name="Tesla T4", uuid="GPU-2", memory_mib=None, compute_capability=(7, 5), visible=False)
MACHINE = Machine(
    os="linux",
    arch="x86_64",
    wsl=True,
    container=True,
    driver="580.65.06",
    cuda=(13, 0),
    gpus=(H100, HIDDEN),
    findings=(Finding(kind="gpu-unreadable", message="GPU 2 can't be read", hint="reboot", severity="warning"),),
)
TWO = (("GPU-aaa1", "MIG-x", "MIG-y"), ("GPU-aab2",))


NUMBERS = st.integers(min_value=0, max_value=10**6)
VERSIONS = st.tuples(st.integers(0, 99), st.integers(0, 99))
LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))
GPUS = st.builds(
    Gpu,
    index=NUMBERS,
    name=LINES,
    uuid=LINES,
    memory_mib=st.none() | NUMBERS,
    compute_capability=VERSIONS,
    visible=st.booleans(),
    mig=st.lists(st.text(), max_size=3).map(tuple),
)
FINDINGS = st.builds(
    Finding,
    kind=st.text(),
    message=st.text(),
    hint=st.none() | st.text(),
    path=st.none() | st.text(),
    line=st.none() | NUMBERS,
    severity=st.sampled_from(["error", "warning", "note"]),
    package=st.none() | st.text(),
    why=st.none() | st.text(),
)
MACHINES = st.builds(
    lambda platform, **other: Machine(os=platform[0], arch=platform[1], **other),
    platform=st.sampled_from(
        [
            ("linux", "x86_64"),
            ("linux", "aarch64"),
            ("windows", "x86_64"),
            ("windows", "aarch64"),
            ("macos", "arm64"),
            ("macos", "x86_64"),
        ]
    ),
    wsl=st.booleans(),
    container=st.booleans(),
    jetson=st.booleans(),
    driver=st.none() | st.from_regex(r"[1-9]\d{2}(\.\d{2,3}){1,2}", fullmatch=True),
    cuda=st.none() | VERSIONS,
    gpus=st.lists(GPUS, max_size=3).map(tuple),
    findings=st.lists(FINDINGS, max_size=3).map(tuple),
    facts=st.dictionaries(st.text(), st.text(), max_size=3),
)


@given(MACHINES)
def test_a_machine_survives_json(machine: Machine) -> None:
    alone = json.dumps(machine.as_json())
    among_others = json.dumps({"machine": machine.as_json(), "backend": "cpu", "exit_code": 0}, ensure_ascii=False)
    assert parse(alone, path="machine.json") == machine
    assert parse(among_others, path="machine.json") == machine


def test_the_strategy_knows_every_field() -> None:
    drawn = {Gpu: 7, Machine: 10, Finding: 8}  # a new field belongs into the strategies above
    assert {kind: len(fields(kind)) for kind in drawn} == drawn


def test_json_writes_versions_as_people_do() -> None:
    data = MACHINE.as_json()
    assert (data["cuda"], data["gpus"][1]["compute_capability"]) == ("13.0", "7.5")


def test_a_description_by_hand_needs_little() -> None:
    machine = from_json({"os": "linux", "arch": "aarch64", "gpus": [{"name": "T4", "compute_capability": "7.5"}]})
    assert machine.platform == "linux-aarch64"
    assert machine.visible_gpus[0].compute_capability == (7, 5)
    assert (machine.driver, machine.cuda, machine.container) == (None, None, False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"os": "plan9"}, "os must be one of linux, windows, macos, not 'plan9'"),
        ({"os": "darwin"}, "os must be macos (of linux, windows, macos), not 'darwin'"),
        ({"os": "Linux"}, "os must be linux (of linux, windows, macos), not 'Linux'"),
        ({"arch": 64}, "arch must be one of"),
        ({"arch": "AMD64"}, "arch must be x86_64 (of x86_64, aarch64), not 'AMD64'"),
        ({"arch": "arm64"}, "arch must be aarch64 where os is linux, not 'arm64'"),
        ({"os": "macos", "arch": "aarch64"}, "arch must be arm64 where os is macos, not 'aarch64'"),
        ({"driver": "abc"}, "driver must be the number of a driver such as"),
        ({"cuda": "13000.0"}, 'cuda must be a version such as "12.0"'),
        ({"gpus": [{"name": "T4\nT4", "compute_capability": "7.5"}]}, "gpus[0].name must be a text of one line"),
        ({"wsl": "yes"}, "wsl must be true or false"),
        ({"cuda": 13.0}, 'cuda must be a version such as "12.0", not 13.0'),
        ({"driver": 580}, "driver must be a string"),
        ({"gpus": {}}, "gpus must be a list"),
        ({"gpus": ["T4"]}, "gpus[0] must be a table"),
        ({"gpus": [{"name": "T4", "compute_capability": "7"}]}, "gpus[0].compute_capability must be a version"),
        ({"gpus": [{"name": "T4"}]}, "gpus[0].compute_capability is missing"),
        ({"gpus": [{"name": "T4", "compute_capability": "7.5", "memory_mib": True}]}, "gpus[0].memory_mib must be"),
        ({"drivr": "580"}, "drivr is not a field of it; did you mean driver?"),
        ({"gpus": [{"nme": "T4"}]}, "gpus[0].nme is not a field of it; did you mean name?"),
        ({"findings": [{"kind": "x", "message": "y", "severity": "bad"}]}, "findings[0].severity must be one of"),
    ],
)
def test_a_bad_field_is_named_with_its_path(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ProjectError) as caught:
        from_json({"os": "linux", "arch": "x86_64", **change}, path="fleet/a.json")
    assert caught.value.message.startswith(told)
    assert caught.value.where == "fleet/a.json"


@pytest.mark.parametrize(
    ("shown", "number"),
    [("31.0.15.2833", "528.33"), ("32.0.15.6094", "560.94"), ("30.0.14.9649", "496.49"), ("580.65.06", "580.65.06")],
)
def test_the_number_that_windows_shows_for_the_display_driver_is_read(shown: str, number: str) -> None:
    assert from_json({"os": "windows", "arch": "x86_64", "driver": shown}).driver == number


@pytest.mark.parametrize(("data", "told"), [([], "the machine must be a table"), ({"arch": "x86_64"}, "os is missing")])
def test_what_is_no_machine_is_refused(data: object, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        from_json(data)


@pytest.mark.parametrize(
    ("kind", "is_fault"),
    [("driver-not-loaded", True), ("gpu-unreadable", True), ("visible-devices-invalid", False), ("cuda-x", False)],
)
def test_only_a_gpu_that_can_not_be_used_is_a_fault_of_the_driver(kind: str, is_fault: bool) -> None:
    machine = Machine(os="linux", arch="x86_64", findings=(Finding(kind=kind, message="m"),))
    assert (machine.driver_fault is not None) is is_fault


@pytest.mark.parametrize(
    ("setting", "indices", "stopped_at"),
    [
        (None, (0, 1), None),
        ("", (), None),
        ("  ", (), None),
        ("-1", (), None),
        ("1", (1,), None),
        ("1,0", (1, 0), None),
        (" 0 , 1 ", (0, 1), None),
        ("0,-1,1", (0,), "-1"),
        ("0,2,1", (0,), "2"),
        ("2", (), "2"),
        ("0,gpu,1", (0,), "gpu"),
        ("0,,1", (0,), ""),
        ("1gpu", (1,), None),
        ("0,0", (), "0"),
        ("GPU-aaa", (0,), None),
        ("GPU-aab2,GPU-aaa1", (1, 0), None),
        ("GPU-aa", (), "GPU-aa"),
        ("GPU-zz", (), "GPU-zz"),
        ("GPU-aaa1,1", (0,), "1"),
        ("0,GPU-aab2", (0,), "GPU-aab2"),
        ("GPU-aaa,GPU-aaa1", (), "GPU-aaa1"),
        ("MIG-y", (0,), None),
        ("MIG-x,MIG-y", (0,), None),
        ("MIG-x,MIG-x", (), "MIG-x"),
        ("MIG-GPU-aaa1/1/0", (0,), None),
        ("MIG-z", (), "MIG-z"),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    setting: str | None, indices: tuple[int, ...], stopped_at: str | None
) -> None:
    visible = visible_devices(setting, TWO)
    assert (visible.indices, visible.stopped_at) == (indices, stopped_at)


@given(st.text(), st.integers(min_value=0, max_value=4))
def test_no_setting_makes_a_device_visible_that_is_not_there(setting: str, count: int) -> None:
    indices = visible_devices(setting, [(f"GPU-{n}",) for n in range(count)]).indices
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(count))


def test_a_field_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ProjectError, match="has the field 'name' twice") as caught:
        parse(
            '{"os": "linux", "arch": "x86_64", "gpus": [{"name": "A", "name": "B", "compute_capability": "9.0"}]}',
            path="node.json",
        )
    assert caught.value.path == "node.json"
