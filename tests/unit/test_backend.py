from __future__ import annotations

from typing import Any

import pytest

from mlenv.backend import Automatic, CudaMajor, Named, Request, choose, obstacles, parse_request
from mlenv.catalogue import load
from mlenv.commands.detect import UNGUESSED, Question, detect
from mlenv.errors import ExitCode, MlenvError, NoBackendError, ProjectError
from mlenv.judgement import uncovered
from mlenv.machine import Gpu, Machine, from_json
from mlenv.report import Finding

CATALOGUE = load()
DECLARED: dict[str, str | None] = {
    "cpu": "2.15.0",
    "cu126": "2.14.1",
    "cu128": "2.11.0",
    "cu130": "2.14.1",
    "cu132": "2.15.0",
}
BROKEN = Finding(kind="driver-version-mismatch", message="the driver was upgraded", hint="reboot", severity="warning")


def _gpu(capability: tuple[int, int], *, index: int = 0, visible: bool = True) -> Gpu:
    return Gpu(
        index=index,
        name=f"GPU of {capability[0]}.{capability[1]}",
        uuid=f"GPU-{index}",
        memory_mib=1024,
        compute_capability=capability,
        visible=visible,
    )


def _machine(*capabilities: tuple[int, int], cuda: tuple[int, int] | None = (13, 2), **other: Any) -> Machine:
    gpus = tuple(_gpu(capability, index=index) for index, capability in enumerate(capabilities))
    driver = other.pop("driver", "595.45.04")
    return Machine(**{"os": "linux", "arch": "x86_64", "driver": driver, "cuda": cuda, "gpus": gpus, **other})


NO_GPU = Machine(os="linux", arch="x86_64")
MAC = Machine(os="macos", arch="arm64")


def _choose(
    machine: Machine, request: Request | None = None, *, declared: dict[str, str | None] = DECLARED, force: bool = False
) -> str:
    return choose(
        catalogue=CATALOGUE, machine=machine, declared=declared, request=request or Automatic(), force=force
    ).backend


def _refused(
    machine: Machine, request: Request | None = None, *, declared: dict[str, str | None] = DECLARED
) -> MlenvError:
    with pytest.raises(MlenvError) as caught:
        _choose(machine, request, declared=declared)
    return caught.value


def _only(*names: str) -> dict[str, str | None]:
    return {name: DECLARED[name] for name in names}


@pytest.mark.parametrize(
    ("word", "request_"),
    [
        (None, Automatic()),
        ("cuda13", CudaMajor(major=13)),
        ("cpu", Named(backend="cpu")),
        ("cu130", Named(backend="cu130")),
    ],
)
def test_words_become_requests(word: str | None, request_: Request) -> None:
    assert parse_request(word) == request_


# ---- automatic


@pytest.mark.parametrize(
    ("capabilities", "cuda", "backend"),
    [
        (((9, 0),), (13, 2), "cu132"),
        (((9, 0),), (13, 0), "cu132"),
        (((9, 0),), (14, 0), "cu132"),
        (((9, 0),), (12, 2), "cu128"),
        (((12, 0),), (12, 8), "cu128"),
        (((6, 1),), (13, 2), "cu126"),
        (((7, 0),), (13, 2), "cu126"),
        (((7, 5),), (13, 2), "cu132"),
        (((8, 9), (6, 1)), (13, 2), "cu126"),
        (((8, 6), (12, 0)), (13, 2), "cu132"),
        (((12, 1),), (13, 2), "cu132"),
    ],
)
def test_the_newest_build_that_driver_and_every_gpu_run(
    capabilities: tuple[tuple[int, int], ...], cuda: tuple[int, int], backend: str
) -> None:
    assert _choose(_machine(*capabilities, cuda=cuda)) == backend


def test_the_order_of_the_overlays_does_not_matter() -> None:
    reordered = dict(reversed(DECLARED.items()))
    assert _choose(_machine((9, 0)), declared=reordered) == "cu132"


def test_newest_is_by_cuda_version_and_not_by_name() -> None:
    declared: dict[str, str | None] = {"cu92": None, "cu126": None}
    assert _choose(_machine((9, 0)), declared=declared) == "cu126"


def test_hidden_gpus_have_no_say() -> None:
    gpus = (_gpu((9, 0)), _gpu((6, 1), index=1, visible=False))
    assert _choose(_machine(gpus=gpus)) == "cu132"


@pytest.mark.parametrize(
    ("driver", "wsl", "os", "backend"),
    [
        ("580.65.06", False, "linux", "cu132"),
        ("575.51.03", False, "linux", "cu128"),
        ("525.60.13", False, "linux", "cu128"),
        ("528.33", True, "linux", "cu128"),
        ("528.33", False, "windows", "cu128"),
    ],
)
def test_without_a_cuda_version_the_drivers_number_decides(driver: str, wsl: bool, os: str, backend: str) -> None:
    assert _choose(_machine((9, 0), cuda=None, driver=driver, wsl=wsl, os=os)) == backend


@pytest.mark.parametrize(("wsl", "os"), [(True, "linux"), (False, "windows")])
def test_a_driver_of_windows_has_windows_floor(wsl: bool, os: str) -> None:
    error = _refused(_machine((9, 0), cuda=None, driver="528.01", wsl=wsl, os=os))
    assert error.code == ExitCode.NO_BACKEND
    assert "528.33 or newer" in error.message


def test_a_driver_that_tells_nothing_runs_nothing() -> None:
    assert "tells neither" in _refused(_machine((9, 0), cuda=None, driver=None)).message


def test_no_gpu_gets_the_cpu_build() -> None:
    choice = choose(catalogue=CATALOGUE, machine=NO_GPU, declared=DECLARED, request=Automatic())
    assert choice.backend == "cpu"
    assert choice.reasons == ("no NVIDIA GPU is there",)


def test_hidden_gpus_get_the_cpu_build_and_the_reason_says_so() -> None:
    machine = _machine(gpus=(_gpu((9, 0), visible=False),))
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Automatic())
    assert choice.backend == "cpu"
    assert "CUDA_VISIBLE_DEVICES hides 1 GPU" in choice.reasons[0]


def test_a_broken_driver_never_gets_the_cpu_build_in_silence() -> None:
    error = _refused(Machine(os="linux", arch="x86_64", findings=(BROKEN,)))
    assert isinstance(error, NoBackendError)
    assert BROKEN.message in error.message
    assert error.hint == "reboot; or name a backend: --backend cu132 or --backend cpu"


def test_a_warning_about_visibility_is_no_broken_driver() -> None:
    odd = Finding(kind="visible-devices-invalid", message="'7' names no GPU", severity="warning")
    machine = _machine(gpus=(_gpu((9, 0), visible=False),), findings=(odd,))
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Automatic())
    assert (choice.backend, choice.notes) == ("cpu", (odd.message,))


def test_no_gpu_and_no_cpu_overlay_is_refused_with_both_ways_out() -> None:
    error = _refused(NO_GPU, declared=_only("cu132"))
    assert error.code == ExitCode.NO_BACKEND
    assert error.hint is not None
    assert "mlenv init --backend cpu" in error.hint
    assert "--backend cu132" in error.hint


def test_a_gpu_that_nothing_fits_does_not_get_the_cpu_build() -> None:
    error = _refused(_machine((6, 1)), declared=_only("cpu", "cu132"))
    assert error.code == ExitCode.NO_BACKEND
    assert "cu132: compute capability 6.1 has no code in it; 7.5 to 12.0 do" in error.message
    assert "cu126 would run here" in error.message
    assert error.hint == "`mlenv init --backend cu126` adds it; or --cpu needs no GPU"


def test_a_gpu_older_than_every_build_still_gets_a_hint() -> None:
    error = _refused(_machine((3, 5), cuda=(11, 4)), declared=_only("cu126"))
    assert error.hint == "`mlenv init --backend cpu` adds the one that needs no GPU", "no driver gives it code"


def test_the_driver_of_a_jetson_is_updated_with_jetpack() -> None:
    orin = _machine((8, 7), cuda=(12, 6), arch="aarch64", jetson=True)
    told = "update JetPack, which brings the driver; or --cpu needs no GPU"
    assert _refused(orin, declared=_only("cpu", "cu132")).hint == told


def test_a_mac_gets_the_cpu_build() -> None:
    choice = choose(catalogue=CATALOGUE, machine=MAC, declared=DECLARED, request=Automatic())
    assert choice.backend == "cpu"
    assert {other.reason for other in choice.passed_over} == {"there are no CUDA builds for macOS"}


def test_windows_passes_over_what_has_no_windows_builds() -> None:
    declared: dict[str, str | None] = {"cu129": "2.13.0", "cu126": "2.13.0"}
    assert _choose(_machine((9, 0), os="windows"), declared=declared) == "cu126"
    assert _choose(_machine((9, 0)), declared=declared) == "cu129"


def test_a_jetson_runs_from_cuda_13_2_on_what_servers_run() -> None:
    orin = _machine((8, 7), arch="aarch64")
    assert _choose(orin) == "cu132"
    error = _refused(orin, Named(backend="cu130"))
    assert "it has code for 8.0, 9.0, 10.0, 11.0, 12.0" in error.message  # 8.7 lies between, so no range


# ---- why, why not


def test_each_other_backend_is_passed_over_with_a_reason() -> None:
    choice = choose(catalogue=CATALOGUE, machine=_machine((8, 9), (6, 1)), declared=DECLARED, request=Automatic())
    told = "compute capability 6.1 has no code in it; 7.5 to 12.0 do (GPU 1: GPU of 6.1)"
    assert [str(other) for other in choice.passed_over] == [
        f"cu132: {told}",
        f"cu130: {told}",
        f"cu128: {told}",
        "cpu: a GPU is visible",
    ]


def test_a_driver_too_old_is_told_with_the_floor() -> None:
    choice = choose(
        catalogue=CATALOGUE,
        machine=_machine((9, 0), cuda=(12, 4), driver="550.54.14"),
        declared=DECLARED,
        request=Automatic(),
    )
    told = "needs a driver for CUDA 13 (580 or newer); this one (550.54.14) goes to CUDA 12.4"
    assert [other.reason for other in choice.passed_over] == [told, told, "cu128 is newer", "a GPU is visible"]


def test_the_reason_names_driver_and_gpus() -> None:
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0), (7, 5)), declared=DECLARED, request=Automatic())
    assert choice.reasons == (
        "the newest CUDA backend of this project that runs here: driver CUDA 13.2, compute capability 7.5, 9.0",
    )


def test_a_driver_minor_below_the_builds_is_noted() -> None:
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0), cuda=(13, 0)), declared=DECLARED, request=Automatic())
    assert choice.backend == "cu132"
    assert choice.notes[0].startswith("cu132 is CUDA 13.2 and the driver goes to 13.0")


@pytest.mark.parametrize(("driver", "noted"), [("580.65.06", True), ("595.45.04", False)])
def test_the_driver_s_number_tells_the_same_where_its_cuda_is_not_said(driver: str, noted: bool) -> None:
    machine = _machine((9, 0), cuda=None, driver=driver)
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Automatic())
    told = "cu132 is CUDA 13.2 and the driver (580.65.06) is older than that: fine within one major, but for what "
    assert (choice.backend, choice.notes) == ("cu132", (told + "compiles PTX at run time",) if noted else ())


def test_ptx_runs_with_the_driver_that_came_with_the_builds_cuda() -> None:
    for driver, runs in (("575.51.03", False), ("580.65.06", True)):
        machine = _machine((13, 0), cuda=None, driver=driver)
        assert (not obstacles(catalogue=CATALOGUE, machine=machine, declared={"cu130": "2.10.0"})) is runs


@pytest.mark.parametrize("cuda", [(13, 2), (13, 4), (14, 0)])
def test_a_driver_as_new_as_the_build_is_not_noted(cuda: tuple[int, int]) -> None:
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0), cuda=cuda), declared=DECLARED, request=Automatic())
    assert choice.notes == ()


# ---- what the catalogue doesn't know


def test_a_torch_newer_than_the_catalogue_is_judged_by_its_neighbours_and_noted() -> None:
    declared: dict[str, str | None] = {"cu132": "2.16.0.dev20261120+cu132"}
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0)), declared=declared, request=Automatic())
    assert (choice.backend, len(choice.notes)) == ("cu132", 1)
    assert "not in mlenv's catalogue" in choice.notes[0]
    assert _refused(_machine((6, 1)), declared=declared).code == ExitCode.NO_BACKEND


def test_an_unknown_backend_is_taken_only_where_no_known_one_runs() -> None:
    machine = _machine((9, 0), cuda=(14, 0))
    assert _choose(machine, declared={"cu140": "2.17.0", "cu132": "2.15.0"}) == "cu132"
    assert _choose(machine, declared={"cu140": "2.17.0"}) == "cu140"
    assert _choose(machine, Named(backend="cu140"), declared={"cu140": "2.17.0", "cu132": "2.15.0"}) == "cu140"


def test_an_unknown_backend_still_needs_its_driver() -> None:
    assert "needs a driver for CUDA 14" in _refused(_machine((9, 0)), declared={"cu140": "2.17.0"}).message


def test_an_overlay_without_torch_is_judged_by_the_driver() -> None:
    assert _choose(_machine((6, 1)), declared={"cu130": None, "cu126": "2.14.1"}) == "cu130"


def test_what_is_no_cuda_build_is_taken_only_by_name() -> None:
    declared: dict[str, str | None] = {"rocm6.4": "2.9.1", "cu132": "2.15.0"}
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0)), declared=declared, request=Automatic())
    assert choice.backend == "cu132"
    assert "no CUDA build" in choice.passed_over[0].reason
    assert _choose(NO_GPU, Named(backend="rocm6.4"), declared=declared) == "rocm6.4"


# ---- a CUDA major


@pytest.mark.parametrize(
    ("machine", "major", "backend"),
    [
        (_machine((9, 0)), 13, "cu132"),
        (_machine((9, 0)), 12, "cu128"),
        (_machine((6, 1)), 12, "cu126"),
        (NO_GPU, 13, "cu132"),
        (NO_GPU, 12, "cu128"),
        (Machine(os="linux", arch="x86_64", findings=(BROKEN,)), 13, "cu132"),
    ],
)
def test_a_cuda_major_gets_its_newest_build_that_runs(machine: Machine, major: int, backend: str) -> None:
    assert _choose(machine, CudaMajor(major=major)) == backend


def test_a_cuda_major_that_no_gpu_here_runs_is_refused_with_what_runs() -> None:
    error = _refused(_machine((6, 1)), CudaMajor(major=13))
    assert error.code == ExitCode.NO_BACKEND
    assert "this machine runs cu126" in error.message
    assert error.hint == "--backend cu126"


def test_a_cuda_major_can_be_forced() -> None:
    machine = _machine((6, 1))
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=CudaMajor(major=13), force=True)
    assert choice.backend == "cu132"
    assert any("compute capability 6.1 has no code in it" in note for note in choice.notes)


def test_a_cuda_major_without_overlay_is_the_projects_error() -> None:
    error = _refused(_machine((9, 0)), CudaMajor(major=13), declared=_only("cpu", "cu126"))
    assert isinstance(error, ProjectError)
    assert "there are: cu126, cpu" in error.message
    assert error.hint == "`mlenv init --backend cu132` adds one"


def test_a_cuda_major_that_nobody_knows_is_the_projects_error_too() -> None:
    error = _refused(_machine((9, 0)), CudaMajor(major=15))
    assert isinstance(error, ProjectError)
    assert error.hint is not None
    assert "constraints/cu15N.txt" in error.hint


def test_no_cuda_major_on_a_mac() -> None:
    assert "no CUDA builds for macOS" in _refused(MAC, CudaMajor(major=13)).message


# ---- by name


def test_a_backend_by_name_is_taken_where_it_runs() -> None:
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0)), declared=DECLARED, request=Named(backend="cu126"))
    assert (choice.backend, choice.reasons) == ("cu126", ("it was asked for",))
    assert {other.reason for other in choice.passed_over} == {"cu126 was asked for"}


@pytest.mark.parametrize("machine", [NO_GPU, _machine((9, 0)), Machine(os="linux", arch="x86_64", findings=(BROKEN,))])
def test_the_cpu_build_by_name_runs_everywhere(machine: Machine) -> None:
    assert _choose(machine, Named(backend="cpu")) == "cpu"


def test_a_cuda_build_by_name_also_runs_without_a_gpu() -> None:
    assert _choose(NO_GPU, Named(backend="cu130")) == "cu130"


def test_a_broken_driver_is_noted_where_the_backend_was_named() -> None:
    machine = Machine(os="linux", arch="x86_64", findings=(BROKEN,))
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Named(backend="cpu"))
    assert choice.notes == (BROKEN.message,)


def test_a_backend_by_name_that_does_not_run_is_refused_unless_forced() -> None:
    machine = _machine((9, 0), cuda=(12, 4))
    error = _refused(machine, Named(backend="cu130"))
    assert error.code == ExitCode.NO_BACKEND
    assert "cu130: needs a driver for CUDA 13" in error.message
    assert error.hint == "--backend cu128; or update the driver"
    with pytest.raises(NoBackendError) as caught:
        choose(
            catalogue=CATALOGUE,
            machine=machine,
            declared=DECLARED,
            request=Named(backend="cu130", said_by="MLENV_BACKEND"),
            can_force=True,
        )
    assert caught.value.hint == f"{error.hint}; or add --force where cu130 is wanted all the same"
    assert caught.value.message.startswith("cu130, which MLENV_BACKEND asks for, does not run on this machine")
    assert _choose(machine, Named(backend="cu130"), force=True) == "cu130"


def test_who_asks_for_a_backend_is_told() -> None:
    machine = _machine((9, 0))
    asked = choose(
        catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=parse_request("cu126", said_by="MLENV_BACKEND")
    )
    assert asked.reasons == ("the setting says so: MLENV_BACKEND",)
    error = _refused(machine, Named(backend="foo", said_by="MLENV_BACKEND"))
    assert error.message.startswith("this project has no backend foo, which MLENV_BACKEND asks for; there are: ")
    assert str(error.hint).startswith("change MLENV_BACKEND; or write constraints/foo.txt by hand")


def test_gpus_that_no_build_runs_on_together_are_told_what_each_would_get() -> None:
    error = _refused(_machine((7, 0), (12, 0)), declared=_only("cpu", "cu126", "cu132"))
    assert error.hint == (
        "`export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0` leaves GPU of 7.0, which gets cu126; "
        "or `export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1` leaves GPU of 12.0, which gets cu132; "
        "or --cpu needs no GPU"
    )


def test_a_backend_without_overlay_is_answered_with_the_nearest() -> None:
    error = _refused(_machine((9, 0)), Named(backend="cu13"))
    assert isinstance(error, ProjectError)
    assert "did you mean cu130 or cu132?" in error.message or "did you mean cu132 or cu130?" in error.message
    by_hand = "write constraints/cu13.txt by hand (torch==VERSION), and an index pytorch-cu13 into uv.toml"
    assert error.hint == by_hand
    known = _refused(_machine((9, 0)), Named(backend="cu128"), declared={"cpu": "2.15.0"})
    assert known.hint == "`mlenv init --backend cu128` adds it, or write constraints/cu128.txt"


# ---- for the gate and for detect


def test_an_installed_torch_is_judged_by_the_visible_gpus() -> None:
    gap = uncovered(catalogue=CATALOGUE, machine=_machine((6, 1)), backend="cu132", torch="2.15.0+cu132")
    assert gap is not None
    assert gap.startswith("torch 2.15.0+cu132 of cu132: compute capability 6.1 has no code in it")


@pytest.mark.parametrize(
    ("capability", "backend", "torch"),
    [((9, 0), "cu132", "2.15.0"), ((6, 1), "cu140", "2.17.0"), ((6, 1), "cpu", "2.15.0")],
)
def test_an_installed_torch_that_covers_or_that_nobody_knows_passes(
    capability: tuple[int, int], backend: str, torch: str
) -> None:
    assert uncovered(catalogue=CATALOGUE, machine=_machine(capability), backend=backend, torch=torch) is None


def test_what_keeps_a_gpu_from_being_used_is_told_once() -> None:
    machine = Machine(os="linux", arch="x86_64", findings=(BROKEN,))
    found = detect(Question(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Automatic())).findings
    assert [str(one.message).count(BROKEN.message) for one in found] == [1]
    assert "reboot" in str(found[0].hint)


def test_obstacles_are_listed_newest_first() -> None:
    found = obstacles(catalogue=CATALOGUE, machine=_machine((9, 0), cuda=(12, 4)), declared=DECLARED)
    assert [other.backend for other in found] == ["cu132", "cu130"]


@pytest.mark.parametrize(("system", "arch"), [("windows", "aarch64"), ("macos", "x86_64")])
def test_a_platform_that_nothing_is_built_for_gets_no_backend(system: str, arch: str) -> None:
    machine = from_json({"os": system, "arch": arch})
    for request in (Automatic(), Named(backend="cpu")):
        with pytest.raises(NoBackendError, match=f"mlenv knows no builds for {system}-{arch}") as caught:
            choose(catalogue=CATALOGUE, machine=machine, declared=_only("cpu"), request=request)
        assert caught.value.hint is None


def test_detect_tells_the_machine_the_backend_and_why() -> None:
    machine = _machine((9, 0), cuda=(12, 4), driver="550.54.14", container=True)
    outcome = detect(
        Question(catalogue=CATALOGUE, machine=machine, declared=_only("cpu", "cu126", "cu132"), request=Automatic())
    )
    assert outcome.exit_code == 0
    assert outcome.text.splitlines() == [
        "platform     linux-x86_64 (container)",
        "driver       550.54.14, up to CUDA 12.4",
        "GPU 0        GPU of 9.0, compute capability 9.0, 1 GiB",
        "backend      cu126",
        "because      the newest CUDA backend of this project that runs here: driver CUDA 12.4, compute capability 9.0",
        "passed over  cu132: needs a driver for CUDA 13 (580 or newer); this one (550.54.14) goes to CUDA 12.4",
        "             cpu: a GPU is visible",
        "note         cu126 is CUDA 12.6 and the driver goes to 12.4: fine within one major, "
        "but for what compiles PTX at run time",
        "next         driver 580 or newer would unlock cu132 (torch 2.15.0)",
        "             driver 560.28.03 or newer has all of CUDA 12.6, run-time compilation of PTX included",
    ]


def test_detect_shows_the_machine_where_nothing_fits() -> None:
    outcome = detect(
        Question(catalogue=CATALOGUE, machine=_machine((6, 1)), declared=_only("cpu", "cu132"), request=Automatic())
    )
    assert outcome.exit_code == ExitCode.NO_BACKEND
    assert outcome.data["backend"] is None
    assert outcome.data["machine"]["gpus"][0]["compute_capability"] == "6.1"
    assert "backend      none" in outcome.text
    assert outcome.findings[-1].hint == "`mlenv init --backend cu126` adds it; or --cpu needs no GPU"


def test_detect_without_overlays_judges_the_builds_that_exist() -> None:
    outcome = detect(Question(catalogue=CATALOGUE, machine=_machine((9, 0)), declared={}, request=Automatic()))
    assert outcome.data["backend"] == "cu132"
    assert "there are no overlays here yet" in outcome.data["notes"][-1]
    assert outcome.data["reasons"][0].startswith("the newest CUDA backend of mlenv's catalogue that runs here")


def test_detect_tells_a_finding_once() -> None:
    machine = Machine(os="linux", arch="x86_64", findings=(BROKEN,))
    outcome = detect(Question(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Named(backend="cpu")))
    assert outcome.findings == (BROKEN,)
    assert BROKEN.message not in outcome.text


def test_detect_shows_what_is_hidden() -> None:
    machine = _machine(gpus=(_gpu((9, 0), visible=False),))
    assert (
        "(hidden by CUDA_VISIBLE_DEVICES)"
        in detect(Question(catalogue=CATALOGUE, machine=machine, declared=DECLARED, request=Automatic())).text
    )


# ---- Python, channel, releases, PTX


@pytest.mark.parametrize(("python", "backend"), [("3.10", "cu130"), ("3.10.4", "cu130"), ("3.12", "cu132")])
def test_a_torch_without_wheels_for_the_python_is_passed_over(python: str, backend: str) -> None:
    choice = choose(
        catalogue=CATALOGUE, machine=_machine((9, 0)), declared=DECLARED, request=Automatic(), python=python
    )
    assert choice.backend == backend
    told = "torch 2.15.0 has no wheels for Python 3.10; 3.11 to 3.15 do"
    assert (f"cu132: {told}" in map(str, choice.passed_over)) is (backend == "cu130")


def test_the_cpu_build_needs_wheels_as_well() -> None:
    with pytest.raises(NoBackendError, match=r"has no wheels for Python 3\.10"):
        choose(catalogue=CATALOGUE, machine=NO_GPU, declared=DECLARED, request=Automatic(), python="3.10")


def test_a_backend_by_name_is_told_that_its_torch_may_have_no_wheels() -> None:
    asked = Named(backend="cu132")
    choice = choose(catalogue=CATALOGUE, machine=_machine((9, 0)), declared=DECLARED, request=asked, python="3.10")
    assert choice.backend == "cu132"
    assert choice.notes == ("cu132: torch 2.15.0 has no wheels for Python 3.10; 3.11 to 3.15 do",)


def test_a_build_known_not_to_be_there_is_taken_only_where_nothing_better_is() -> None:
    machine = _machine((9, 0))
    assert _choose(machine, declared={"cu126": "2.15.0", "cu118": "2.7.1"}) == "cu118"
    choice = choose(catalogue=CATALOGUE, machine=machine, declared={"cu126": "2.15.0"}, request=Automatic())
    assert "mlenv knows no cu126 build of torch 2.15.0; 2.14.1 is the last it knows" in choice.notes


def test_a_nightly_is_newer_than_every_release() -> None:
    declared: dict[str, str | None] = {"cu132": "2.15.0", "cu126": "2.14.1"}
    choice = choose(
        catalogue=CATALOGUE,
        machine=_machine((9, 0)),
        declared=declared,
        request=Automatic(),
        python="3.10",  # which wheels a nightly has, no catalogue knows
        channel="nightly",
    )
    assert choice.backend == "cu132"
    assert "a nightly of cu132 is not in mlenv's catalogue" in choice.notes[0]


@pytest.mark.parametrize(
    ("torch", "os", "cuda", "runs"),
    [
        ("2.10.0", "linux", (13, 0), True),
        ("2.10.0", "windows", (13, 0), False),
        ("2.14.1", "linux", (13, 0), False),
        ("2.16.0.dev20261120", "linux", (13, 0), True),
    ],
)
def test_a_gpu_newer_than_all_code_runs_ptx_with_a_driver_of_the_builds_cuda(
    torch: str, os: str, cuda: tuple[int, int], runs: bool
) -> None:
    found = obstacles(catalogue=CATALOGUE, machine=_machine((13, 0), cuda=cuda, os=os), declared={"cu130": torch})
    assert (not found) is runs


def test_ptx_needs_a_driver_of_the_builds_cuda() -> None:
    declared: dict[str, str | None] = {"cu132": "2.16.0.dev20261120"}
    error = _refused(_machine((13, 0), cuda=(13, 0)), declared=declared)
    assert "its PTX would run with a driver of CUDA 13.2 or newer" in error.message


def test_an_integrated_gpu_is_told_from_which_cuda_on_it_runs() -> None:
    error = _refused(_machine((8, 7), arch="aarch64"), Named(backend="cu130"))
    assert "builds for servers run on this integrated GPU from CUDA 13.2 on" in error.message


def test_detect_tells_every_criterion_with_its_source() -> None:
    machine = _machine((6, 1), cuda=(13, 0), driver="580.65.06")
    asked = Question(
        catalogue=CATALOGUE,
        machine=machine,
        declared=_only("cpu", "cu126", "cu132"),
        request=Automatic(),
        python="3.10",
        why=True,
    )
    outcome = detect(asked)
    verdicts = {
        one["backend"]: {c["criterion"]: (c["verdict"], bool(c["source"])) for c in one["criteria"]}
        for one in outcome.data["why"]
    }
    assert verdicts["cu132"] == {
        "platform": ("yes", True),
        "driver": ("yes", True),
        "compute capability": ("no", True),
        "torch release": ("yes", True),
        "Python": ("no", True),
    }
    assert {verdict for verdict, _ in verdicts["cu126"].values()} == {"yes"}
    assert "driver" not in verdicts["cpu"]
    assert "cu132 (torch 2.15.0)\n  platform            yes      linux-x86_64" in outcome.text
    assert outcome.data["next"][0]["kind"] == "last-release"


@pytest.mark.parametrize(("driver", "noted"), [("528.33", True), ("560.76", False)])
def test_a_driver_of_windows_is_judged_by_its_branch(driver: str, noted: bool) -> None:
    machine = _machine((8, 6), os="windows", driver=driver, cuda=None)
    choice = choose(catalogue=CATALOGUE, machine=machine, declared=_only("cu126"), request=Automatic())
    assert any("older than that: fine within one major" in note for note in choice.notes) is noted


def test_detect_says_that_sync_guesses_nothing_in_ci() -> None:
    asked = Question(catalogue=CATALOGUE, machine=NO_GPU, declared=DECLARED, request=Automatic(), unguessed=True)
    assert detect(asked).data["notes"] == [UNGUESSED]
    named = Question(
        catalogue=CATALOGUE, machine=NO_GPU, declared=DECLARED, request=Named(backend="cpu"), unguessed=True
    )
    assert detect(named).data["notes"] == []
