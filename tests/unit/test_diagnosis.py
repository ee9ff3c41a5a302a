"""The pure checks of ``mlenv doctor``, an area each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mlenv.catalogue import load
from mlenv.commands.doctor import Patient, doctor
from mlenv.diagnosis import coupled, disks, driver, overlays, variables
from mlenv.diagnosis.coupled import Wanted
from mlenv.diagnosis.driver import Judged
from mlenv.errors import ProjectError
from mlenv.machine import Gpu, Machine
from mlenv.overlay import Constraint, Overlay
from mlenv.report import Area, Finding
from mlenv.system.disks import Disk, linux_drivers, mount_of

CATALOGUE = load()
LINUX = Machine(os="linux", arch="x86_64")
WSL = Machine(os="linux", arch="x86_64", wsl=True)


def _kinds(area: Area | tuple[Finding, ...]) -> list[tuple[str, str]]:
    findings = area.findings if isinstance(area, Area) else area
    return [(finding.kind, finding.severity) for finding in findings]


# ---- driver


def _gpu(capability: tuple[int, int], *, visible: bool = True) -> Gpu:
    return Gpu(index=0, name="a GPU", uuid="GPU-0", memory_mib=1024, compute_capability=capability, visible=visible)


def _with_gpu(
    capability: tuple[int, int] = (9, 0), *, visible: bool = True, cuda: tuple[int, int] = (13, 2)
) -> Machine:
    return Machine(os="linux", arch="x86_64", driver="595.45.04", cuda=cuda, gpus=(_gpu(capability, visible=visible),))


DECLARED: dict[str, str | None] = {"cpu": "2.15.0", "cu126": "2.14.1", "cu132": "2.15.0"}


def _driver(machine: Machine, declared: dict[str, str | None] = DECLARED, drivers: tuple[str, ...] = ()) -> Area:
    return driver.judge(Judged(catalogue=CATALOGUE, declared=declared), machine, linux_drivers=drivers)


@pytest.mark.parametrize(("machine", "backend"), [(LINUX, "cpu"), (_with_gpu(), "cu132"), (_with_gpu((6, 1)), "cu126")])
def test_the_driver_s_line_says_which_backend_the_machine_gets(machine: Machine, backend: str) -> None:
    area = _driver(machine)
    assert (area.state, area.seen.endswith(f"; gets {backend}")) == ("ok", True)


def test_gpus_that_are_hidden_and_a_driver_below_the_build_are_notes() -> None:
    assert _kinds(_driver(_with_gpu(visible=False))) == [("gpu-hidden", "note")]
    assert _kinds(_driver(_with_gpu(cuda=(13, 0)))) == [("backend-note", "note")]


def test_where_no_backend_fits_each_one_is_told_with_its_reason() -> None:
    area = _driver(_with_gpu((6, 1)), {"cu132": "2.15.0"})
    assert _kinds(area) == [("no-backend", "error")]
    assert "cu132: compute capability 6.1 has no code in it" in area.findings[0].message
    assert "mlenv init --backend cu126" in str(area.findings[0].hint)


def test_a_broken_driver_is_told_once_and_with_what_it_does() -> None:
    broken = Finding(kind="driver-not-loaded", message="not loaded", hint="modprobe", severity="warning")
    area = _driver(Machine(os="linux", arch="x86_64", findings=(broken,)))
    assert _kinds(area) == [("driver-not-loaded", "warning")]
    assert area.findings[0].why is not None


def test_a_linux_driver_inside_wsl_hides_that_of_windows(tmp_path: Path) -> None:
    library = tmp_path / "usr/lib/x86_64-linux-gnu/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    found = linux_drivers(tmp_path)
    assert found == (str(library),)
    assert _kinds(_driver(WSL, {}, found)) == [("wsl-linux-driver", "warning")]
    assert _kinds(_driver(LINUX, {}, found)) == []


# ---- disks

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
C:\\134 /mnt/c 9p rw,aname=drvfs 0 0
nas:/data /data\\040sets nfs4 rw 0 0
fast /srv/deep xfs rw 0 0
over /srv tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/me", ("/", "ext4")),
        ("/mnt/c/app", ("/mnt/c", "9p")),
        ("/mnt/cold", ("/", "ext4")),
        ("/data sets/x", ("/data sets", "nfs4")),
        ("/srv/deep/x", ("/srv", "tmpfs")),
    ],
)
def test_a_folder_s_file_system_is_that_of_the_last_mount_that_covers_it(path: str, found: tuple[str, str]) -> None:
    assert mount_of(Path(path), MOUNTS) == found


def _disk(path: str, *, mount: str = "/", kind: str = "ext4", gb: float = 500, writable: bool = True) -> Disk:
    return Disk(path=Path(path), device=hash(mount), mount=mount, kind=kind, free=int(gb * 1e9), writable=writable)


PROJECT, CACHE = _disk("/home/me/project"), _disk("/home/me/.cache/uv")


@pytest.mark.parametrize(
    ("machine", "project", "cache", "link_mode", "kinds"),
    [
        (LINUX, PROJECT, CACHE, None, []),
        (LINUX, None, CACHE, None, []),
        (LINUX, PROJECT, _disk("/big/uv", mount="/big"), None, ["cache-elsewhere"]),
        (LINUX, None, _disk("/big/uv", mount="/big"), None, []),
        (LINUX, PROJECT, CACHE, "copy", ["link-mode-copy"]),
        (LINUX, PROJECT, CACHE, "hardlink", []),
        (LINUX, _disk("/p", gb=5), CACHE, None, ["disk-full"]),
        (LINUX, PROJECT, _disk("/c", gb=2), None, ["disk-full"]),
        (LINUX, PROJECT, _disk("/c", writable=False), None, ["cache-not-writable"]),
        (LINUX, PROJECT, _disk("/c", mount="/c", gb=0, writable=False), None, ["cache-not-writable"]),  # and no more
        (LINUX, _disk("/p", writable=False), CACHE, None, ["disk-read-only"]),
        (LINUX, _disk("/p", mount="/p", writable=False), CACHE, None, ["disk-read-only"]),  # nothing is built there
        (LINUX, _disk("/n", kind="nfs4"), CACHE, None, ["disk-network"]),
        (LINUX, PROJECT, _disk("/n", kind="cifs"), None, ["disk-network"]),
        (WSL, _disk("/mnt/c/p", kind="9p"), CACHE, None, ["disk-windows-drive"]),
        (LINUX, _disk("/vm/p", kind="9p"), CACHE, None, []),  # a virtual machine's shared folder
    ],
)
def test_disks(machine: Machine, project: Disk | None, cache: Disk, link_mode: str | None, kinds: list[str]) -> None:
    area = disks.judge(machine, project, cache, link_mode=link_mode)
    assert [finding.kind for finding in area.findings] == kinds
    assert all(finding.hint and finding.why for finding in area.findings)


def test_the_cache_that_is_proposed_is_on_the_project_s_own_disk() -> None:
    elsewhere = _disk("/big/uv", mount="/big")
    for project, proposed in (
        (PROJECT, "/home/me/.uv-cache"),
        (_disk("/app", mount="/app"), "/app/.mlenv/uv-cache"),
    ):
        area = disks.judge(LINUX, project, elsewhere, link_mode=None)
        assert f"UV_CACHE_DIR={proposed}`" in str(area.findings[0].hint)


# ---- overlays


def _overlay(backend: str, *lines: str) -> Overlay:
    constraints = tuple(
        Constraint(requirement=Requirement(line), line=number) for number, line in enumerate(lines, start=1)
    )
    return Overlay(backend=backend, path=f"constraints/{backend}.txt", constraints=constraints)


def _judged(*given: Overlay, python: str = "3.12") -> Area:
    by_name = {overlay.backend: overlay for overlay in given}
    return overlays.judge(
        CATALOGUE, by_name, python=python, together=list(by_name), shared=lambda name: name != "torch"
    )


@pytest.mark.parametrize(
    ("overlay", "kinds"),
    [
        (_overlay("cu132", "torch==2.15.0", "torchvision==0.29.2"), []),
        (_overlay("cu132", "torch==2.15.0+cu132"), []),
        (_overlay("cu132", "torch==2.16.0.dev20261120+cu132"), []),
        (_overlay("cu126", "torch==2.15.0"), [("overlay-dead-release", "error")]),
        (_overlay("cu130", "torch==2.15.0"), [("overlay-unconfirmed", "note")]),
        (_overlay("cu126", "torch==2.14.1"), [("overlay-at-its-end", "note")]),
        (_overlay("cu132", "torch==2.14.1"), [("overlay-behind", "note")]),
        (_overlay("cu132", "torch==2.99.0"), [("overlay-unknown-release", "note")]),
        (_overlay("rocm7.0", "torch==2.15.0"), []),
        (_overlay("cu132", "numpy<3"), [("overlay-rootless", "warning")]),
        (_overlay("cu132", "torch==2.15.0", "torchvision==0.29.1"), [("overlay-companion", "error")]),
        (_overlay("cpu", "torch==2.15.0", "torchaudio==2.10.0"), [("overlay-companion", "error")]),
        (_overlay("cu132", "torch==2.15.0", "torchaudio==2.11.0"), [("overlay-torchaudio", "error")]),
        (_overlay("cu132", "torch==2.15.0", "torchaudio==2.10.0"), [("overlay-torchaudio", "error")]),
        (_overlay("cpu", "torch==2.15.0", "torchaudio==2.11.0"), []),
    ],
    ids=str,
)
def test_overlays_against_the_catalogue(overlay: Overlay, kinds: list[tuple[str, str]]) -> None:
    assert _kinds(_judged(overlay)) == kinds


def test_a_torchaudio_that_no_build_exists_of_is_to_be_left_out() -> None:
    [found] = _judged(_overlay("cu132", "torch==2.15.0", "torchaudio==2.10.0")).findings
    assert found.message.startswith(
        "torchaudio has no cu132 build: 2.11.0 is its last release, and was built for cpu, "
    )
    assert "torchaudio==" not in str(found.hint)


def test_a_python_without_wheels_is_told_with_the_nearest_that_has_some() -> None:
    area = _judged(_overlay("cu132", "torch==2.15.0"), python="3.10")
    assert _kinds(area) == [("overlay-python", "error")]
    assert "--python-version 3.11" in str(area.findings[0].hint)


def test_a_release_without_wheels_for_the_target_python_is_not_out() -> None:
    assert _kinds(_judged(_overlay("cu132", "torch==2.14.1"), python="3.10")) == []


def test_overlays_that_contradict_each_other() -> None:
    area = _judged(_overlay("cpu", "torch==2.15.0", "numpy==1.26.4"), _overlay("cu132", "torch==2.15.0", "numpy>=2"))
    assert _kinds(area) == [("overlay-contradiction", "error")]


def test_what_init_writes_is_as_it_should_be() -> None:
    """For each usual backend its newest release; only that it is at its end may be said."""
    for backend in ("cpu", "cu126", "cu130", "cu132"):
        release = CATALOGUE.newest_release(backend)
        assert release is not None
        area = _judged(_overlay(backend, f"torch=={release.torch}", f"torchvision=={release.torchvision}"))
        assert area.state in ("ok", "note"), area


def test_no_overlay_at_all() -> None:
    assert _kinds(_judged()) == [("overlay-missing", "error")]


# ---- variables


def _variables(
    environ: dict[str, str], *, dropped: tuple[str, ...] = (), files: dict[str, list[str]] | None = None
) -> Area:
    listing = files or {}
    return variables.judge(
        environ,
        dropped=dropped,
        backend="cu130",
        environment=Path("/p/.venv"),
        names=lambda folder: listing.get(str(folder), []),
        resolve=lambda path: Path("/usr/local/cuda-12.6") if str(path) == "/usr/local/cuda" else path,
    )


SITE = {
    "/own": ["torch"],
    "/other": ["numpy-2.0.dist-info"],
    "/cuda": ["libcudnn.so.9", "libm.so"],
    "/plain": ["libnvidia-ml.so.1"],
}


@pytest.mark.parametrize(
    ("environ", "kinds"),
    [
        ({}, []),
        ({"LD_LIBRARY_PATH": f"/plain{os.pathsep}/cuda"}, [("variable-libraries", "warning")]),
        ({"LD_LIBRARY_PATH": "/plain"}, []),
        ({"LD_PRELOAD": "libjemalloc.so"}, [("variable-preload", "note")]),
        ({"PYTHONHOME": "/x"}, [("variable-pythonhome", "warning")]),
        ({"PYTHONPATH": "/other"}, [("variable-pythonpath", "warning")]),
        ({"PYTHONPATH": "/src"}, [("variable-pythonpath", "note")]),
        ({"PYTHONPATH": "/own"}, [("variable-pythonpath", "warning")]),
        ({"CUDA_HOME": "/usr/local/cuda"}, [("variable-cuda-home", "note")]),
        ({"CUDA_HOME": "/usr/local/cuda-13.1"}, []),
        ({"CONDA_PREFIX": "/opt/conda"}, [("variable-conda", "note")]),
        ({"VIRTUAL_ENV": "/elsewhere"}, [("variable-virtual-env", "note")]),
        ({"VIRTUAL_ENV": "/p/.venv"}, []),
    ],
    ids=str,
)
def test_variables(environ: dict[str, str], kinds: list[tuple[str, str]]) -> None:
    assert _kinds(_variables(environ, files=SITE)) == kinds


def test_a_python_path_with_a_torch_is_told_with_its_name() -> None:
    assert (
        "PYTHONPATH holds /own, which has torch" in _variables({"PYTHONPATH": "/own"}, files=SITE).findings[0].message
    )


def test_dropped_variables_are_told_with_the_command_that_unsets_them() -> None:
    area = _variables({}, dropped=("PIP_INDEX_URL", "UV_INDEX"))
    assert _kinds(area) == [("variable-dropped", "note")]
    assert "`unset PIP_INDEX_URL UV_INDEX`" in str(area.findings[0].hint)


# ---- packages

BOTH = "onnxruntime-gpu and onnxruntime are both required"
OLD = _overlay("cpu", "torch==2.10.0")
CPU = _overlay("cpu", "torch==2.15.0")
CU126 = _overlay("cu126", "torch==2.14.0")
CU132 = _overlay("cu132", "torch==2.15.0")
CU134 = _overlay("cu134", "torch==2.15.0")


def _wanted(text: str) -> Wanted:
    parsed = Requirement(text)
    version = str(parsed.specifier).removeprefix("==") or None
    return Wanted(name=parsed.name, version=version, extras=frozenset(parsed.extras))


@pytest.mark.parametrize(
    ("required", "given", "told"),
    [
        (["vllm==0.33.0"], [CU126], []),
        (["vllm==0.33.0"], [CU126, CU132], ["vllm 0.33.0 needs torch==2.14.0; cu132 pins 2.15.0"]),
        (["vllm==0.2.5"], [CU132], []),  # nothing is known of it
        (["vllm"], [CU132], ["vllm needs torch==2.14.0; cu132 pins 2.15.0 (as of vllm 0.33.0)"]),
        (["bitsandbytes==0.50.2"], [CPU, CU126, CU132], []),
        (
            ["bitsandbytes==0.49.0"],
            [CU134],
            [
                "bitsandbytes 0.49.0 is built for 11.8, 12.1, 12.4, 12.6, 12.8, 13.0, 13.2, and not for cu134 "
                "(as of bitsandbytes 0.50.2)"
            ],
        ),
        (["cupy-cuda12x==14.2.0"], [CPU, CU126], []),
        (["cupy-cuda12x==14.2.0"], [CU126, CU132], ["cupy-cuda12x 14.2.0 is built for CUDA 12, and not for cu132"]),
        (["cupy-cuda12x", "cupy-cuda13x"], [CPU], ["cupy-cuda13x and cupy-cuda12x are both required"]),
        (["torchao==0.18.0"], [OLD], ["torchao 0.18.0 needs torch>=2.11; cpu pins 2.10.0"]),
        (["torchao==0.18.0"], [CU132], []),
        (["onnxruntime==1.31.1"], [CU132], []),
        (["onnxruntime==1", "onnxruntime-gpu==1.31.1"], [CU132], [BOTH]),
        (["tensorflow==2.21.0"], [CU132], []),
        (["tensorflow[and-cuda]==2.21.0"], [CU132], ["tensorflow[and-cuda] is built for CUDA 12, and not for cu132"]),
        (["numpy==2.4.0"], [CU132], []),
    ],
    ids=str,
)  # fmt: skip
def test_coupled_packages(required: list[str], given: list[Overlay], told: list[str]) -> None:
    found = coupled.judge([_wanted(text) for text in required], given)
    assert [finding.message for finding in found] == told
    assert all(finding.hint and finding.why for finding in found)


def test_a_proof_counts_before_what_a_row_says_of_declared_needs() -> None:
    wanted = [_wanted("vllm==0.33.0"), _wanted("torchao==0.18.0")]
    given = [OLD, CU132]
    assert [found.package for found in coupled.judge(wanted, given)] == ["vllm", "torchao"]
    proven = coupled.judge(wanted, given, proven=["cpu", "cu132"])
    assert [found.package for found in proven] == ["torchao"]  # its metadata says nothing of torch
    assert [found.message for found in coupled.judge(wanted[:1], given, proven=["cpu"])] == [
        "vllm 0.33.0 needs torch==2.14.0; cu132 pins 2.15.0"
    ]


def test_what_is_compiled_against_torch_is_told_unless_the_settings_say_so() -> None:
    wanted = [_wanted("flash-attn==2.8.3.post2")]
    assert _kinds(coupled.judge(wanted, [CU132])) == [("coupled-compiled", "warning")]
    assert coupled.judge(wanted, [CU132], built_against=["flash-attn"]) == ()


def test_every_row_can_be_wrong_and_says_where_it_was_read() -> None:
    for row in coupled.load():
        rules = (row.torch, row.cuda_major, row.cuda, row.against, row.compiled)
        assert any(rules), row
        assert row.source, row
        assert row.read, row


# ---- the report


def _patient(**given: object) -> Patient:
    def missing() -> object:
        raise RuntimeError("not there")

    chosen: dict[str, object] = {
        "root": Path("/nowhere"),
        "load": None,
        "find_uv": missing,
        "observe": lambda: LINUX,
        "environ": {},
    }
    return Patient(**{**chosen, **given})  # type: ignore[arg-type]


def test_a_check_that_fails_is_a_finding_and_the_others_are_made() -> None:
    outcome = doctor(_patient())
    states = {area.name: area.state for area in outcome.areas}
    assert states == {"driver": "ok", "uv": "error", "disks": "skipped", "variables": "ok", "indexes": "skipped"}
    assert [finding.kind for finding in outcome.findings] == ["check-failed"]
    assert "RuntimeError: not there" in outcome.findings[0].message
    assert outcome.exit_code == 1


def test_a_project_that_can_not_be_read_is_told_once() -> None:
    def broken() -> object:
        raise ProjectError("is not TOML", path="pyproject.toml", line=2, hint="mend it")

    outcome = doctor(_patient(load=broken, elsewhere=True))
    assert [str(finding) for finding in outcome.findings if finding.kind == "unusable"] == [
        "pyproject.toml:2: is not TOML"
    ]


def test_notes_alone_are_not_wrong() -> None:
    hidden = _with_gpu(visible=False)
    outcome = doctor(_patient(observe=lambda: hidden, elsewhere=True, find_uv=lambda: None))
    assert [finding.severity for finding in outcome.findings] == ["note"]
    assert (outcome.exit_code, outcome.data["healthy"]) == (0, True)
