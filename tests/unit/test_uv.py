"""How uv is called: whole argument lists, the variables it gets, the interpreter it is given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlenv.errors import EnvironmentBuildError, FaultError, IntegrityError, PackageIndexError, ProjectError
from mlenv.system import process, uv
from mlenv.system.process import Completed
from mlenv.system.uv import Compilation, Upgrade, Uv

PYTHON = Path("/opt/python3.11")
BINARY = Path("/opt/uv")
DONE = Completed(code=0, out="", err="")
MISMATCH = "error: Failed to download `demo==2.0`\n  cause: Hash mismatch for `demo==2.0`\n"


@dataclass
class Recorder:
    """Stands in for ``process.run``: keeps what it was called with, answers in turn."""

    answers: list[Completed] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    envs: list[Mapping[str, str]] = field(default_factory=list)

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        echo: Callable[[bytes], None] | None = None,
        terminal: bool = False,
    ) -> Completed:
        words = [str(word) for word in argv]
        self.calls.append([word.removeprefix(f"{cwd}/") for word in words])
        self.envs.append(env)
        if "--output-file" in words:
            Path(words[words.index("--output-file") + 1]).write_text("demo==2.0\n", encoding="utf-8")
        return self.answers.pop(0) if self.answers else DONE


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(process, "run", found)
    return found


def words(text: str) -> list[str]:
    """An argument list as it is typed."""
    return text.split()


HOW = Uv(binary=BINARY, env={"PATH": "/bin"})
TASK = Compilation(
    files={".mlenv-in/pyproject.toml": "", "requirements.in": "demo\n", "constraints/cpu.txt": "dep<3\n"},
    sources=(".mlenv-in/pyproject.toml", "requirements.in"),
    constraints=("constraints/cpu.txt",),
    python="3.11",
    interpreter=PYTHON,
    platform="linux-x86_64",
    allowed_builds=("b", "a"),
)


def test_resolving_for_the_lock(recorder: Recorder) -> None:
    assert uv.compile_(HOW, TASK) == "demo==2.0\n"
    assert recorder.calls == [
        words(
            """
            /opt/uv pip compile .mlenv-in/pyproject.toml requirements.in --output-file .mlenv-in/output.txt
            --config-file .mlenv-in/uv.toml --python /opt/python3.11 --python-version 3.11
            --format requirements.txt --no-header --quiet --color never --index-strategy first-index
            --constraints constraints/cpu.txt --python-platform x86_64-manylinux_2_35
            --generate-hashes --no-strip-extras --annotation-style split --emit-index-annotation
            """
        )
    ]
    assert recorder.envs[0]["MLENV_BUILD_ALLOWED"] == '["a", "b"]'
    assert recorder.envs[0]["PYTHONPATH"].endswith("/.mlenv-in/guard")


def test_resolving_for_a_plan_offline(recorder: Recorder) -> None:
    task = Compilation(
        files={}, sources=("lock.txt",), python="3.12", interpreter=PYTHON, platform=None, output="pylock.toml"
    )
    uv.compile_(Uv(binary=BINARY, env={}, offline=True), task)
    assert recorder.calls == [
        words(
            """
            /opt/uv pip compile lock.txt --output-file .mlenv-in/pylock.toml
            --config-file .mlenv-in/uv.toml --python /opt/python3.11 --python-version 3.12
            --format pylock.toml --no-header --quiet --color never --index-strategy first-index --offline
            """
        )
    ]


@pytest.mark.parametrize(
    ("upgrade", "last"),
    [
        (Upgrade(everything=True), ["--upgrade"]),
        (Upgrade(packages=("a", "b==1")), ["--upgrade-package", "a", "--upgrade-package", "b==1"]),
    ],
)
def test_upgrades_are_the_last_words(recorder: Recorder, upgrade: Upgrade, last: list[str]) -> None:
    task = Compilation(files={}, sources=(), python="3.11", interpreter=PYTHON, platform=None, upgrade=upgrade)
    uv.compile_(HOW, task)
    assert recorder.calls[0][-len(last) :] == last


INSTALL = words(
    """
    /opt/uv pip sync plan.toml --python /opt/python3.11 --config-file uv.toml
    --require-hashes --strict --preview-features pylock --color never
    """
)


def install(how: Uv) -> None:
    uv.install_plan(how, plan=Path("plan.toml"), python=PYTHON, config=Path("uv.toml"))


def test_adding_to_an_environment_removes_nothing_and_brings_nothing_unlisted(recorder: Recorder) -> None:
    uv.install_plan(HOW, plan=Path("plan.toml"), python=PYTHON, config=Path("uv.toml"), adding=True)
    assert recorder.calls[0][:6] == words("/opt/uv pip install --no-deps --requirements plan.toml")


def test_installing_tries_the_cache_first(recorder: Recorder) -> None:
    install(HOW)
    assert recorder.calls == [[*INSTALL, "--offline"]]


def test_installing_asks_the_index_for_what_the_cache_lacks(recorder: Recorder) -> None:
    recorder.answers = [Completed(code=2, out="", err="error: Network connectivity is disabled"), DONE]
    install(HOW)
    assert recorder.calls == [[*INSTALL, "--offline"], INSTALL]


def test_installing_offline_asks_nobody(recorder: Recorder) -> None:
    recorder.answers = [Completed(code=2, out="", err="error: Network connectivity is disabled, but `a` is needed")]
    with pytest.raises(PackageIndexError, match="network is switched off"):
        install(Uv(binary=BINARY, env={}, offline=True))
    assert len(recorder.calls) == 1


@pytest.mark.parametrize(("said", "kind"), [(MISMATCH, IntegrityError), ("error: who knows\n", EnvironmentBuildError)])
def test_an_installation_that_fails(recorder: Recorder, said: str, kind: type[Exception]) -> None:
    recorder.answers = [Completed(code=2, out="", err="error"), Completed(code=2, out="", err=said)]
    with pytest.raises(kind):
        install(HOW)


def test_local_projects_are_installed_without_their_dependencies(recorder: Recorder) -> None:
    lines = ["-e ./app", "./libs/x"]
    uv.install_local(HOW, requirements=lines, python=PYTHON, config=Path("uv.toml"), given={"x", "app"})
    assert recorder.calls == [
        words(
            """
            /opt/uv pip install --no-deps --python /opt/python3.11 --config-file uv.toml
            --editable ./app ./libs/x --no-sources-package app --no-sources-package x --quiet
            """
        )
    ]


def test_a_local_project_is_built_anew_against_what_is_installed(recorder: Recorder, tmp_path: Path) -> None:
    uv.install_local_against(
        HOW, requirement="./x", name="x", python=PYTHON, config=Path("uv.toml"), path="/gen/bin:/bin", folder=tmp_path
    )
    assert recorder.calls[0][-4:] == words("--no-build-isolation-package x --no-sources --quiet")
    assert recorder.envs[0]["PATH"] == "/gen/bin:/bin"
    anew = Path(recorder.envs[0]["DIST_EXTRA_CONFIG"]).read_text()
    assert anew == f"[build]\nbuild_base = {tmp_path}/build\nforce = 1\n"


def test_a_source_is_fetched_without_a_build(recorder: Recorder, tmp_path: Path) -> None:
    recorder.answers = [Completed(code=2, out="", err=MISMATCH)]
    with pytest.raises(IntegrityError):
        uv.fetch_source(
            HOW, plan=Path("one.toml"), python=PYTHON, config=Path("uv.toml"), to=tmp_path / "x", cache=Path("sources")
        )
    target = recorder.calls[0].pop(recorder.calls[0].index("--target") + 1)
    assert recorder.calls == [
        words(
            """
            /opt/uv pip sync one.toml --python /opt/python3.11 --config-file uv.toml --target --cache-dir sources
            --no-build-isolation --require-hashes --preview-features pylock --color never
            """
        )
    ]
    assert recorder.envs[0]["PYTHONPATH"] == str(Path(target).parent)
    assert recorder.envs[0]["MLENV_TAKE_SOURCE_TO"] == str(tmp_path / "x")


def test_a_wheel_is_built_with_what_is_installed_and_installed_by_hash(recorder: Recorder) -> None:
    uv.build_wheel(HOW, source=Path("src"), out=Path("out"), python=PYTHON, path="/gen/bin")
    uv.install_wheel(
        HOW, wheel=Path("kept/a_b-1.0-py3-none-any.whl"), sha256="ff", python=PYTHON, config=Path("u.toml")
    )
    listed = recorder.calls[1].pop(4)
    assert recorder.calls == [
        words(
            """
            /opt/uv build --wheel --no-build-isolation --offline --no-config --python /opt/python3.11
            --out-dir out --no-create-gitignore --color never src
            """
        ),
        words(
            """
            /opt/uv pip install --requirements --no-deps --no-index --find-links kept --require-hashes --offline
            --quiet --color never --python /opt/python3.11 --config-file u.toml
            """
        ),
    ]
    assert listed.endswith("wheel.txt")
    assert recorder.envs[0]["PATH"] == "/gen/bin"
    assert recorder.envs[0]["FLASH_ATTENTION_FORCE_BUILD"] == "TRUE"


def test_what_uv_says_about_a_failed_build_is_no_part_of_its_output() -> None:
    err = "Building wheel...\ng++ -O2\nboom\nerror: Failed to build `/x`\n  cause: ...\nhint: edit [tool.uv]\n"
    assert uv.build_output(Completed(code=2, out="", err=err)) == "g++ -O2\nboom"


def test_making_an_environment(recorder: Recorder) -> None:
    uv.make_environment(HOW, target=Path("/p/.mlenv/gen/x"), python=PYTHON, prompt="p")
    assert recorder.calls == [
        words(
            """
            /opt/uv venv --no-project --no-config --offline --quiet
            --python /opt/python3.11 --prompt p /p/.mlenv/gen/x
            """
        )
    ]


# ------------------------------------------------------------------------------------------------------- variables

KEPT = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "http_proxy": "http://proxy",
    "HTTPS_PROXY": "http://proxy",
    "SSL_CERT_FILE": "/ca.pem",
    "NETRC": "/home/me/.netrc",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "UV_CACHE_DIR": "/cache",
    "UV_HTTP_TIMEOUT": "10",
    "UV_LINK_MODE": "copy",
    "UV_SYSTEM_CERTS": "1",
    "UV_KEYRING_PROVIDER": "subprocess",
    "UV_INDEX_COMPANY_USERNAME": "me",
    "UV_INDEX_PYTORCH_CU130_PASSWORD": "secret",
}
DROPPED = words(
    """
    UV_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_INDEX_STRATEGY UV_NO_SOURCES UV_TORCH_BACKEND UV_CONSTRAINT
    UV_OVERRIDE UV_EXCLUDE UV_BUILD_CONSTRAINT UV_PRERELEASE UV_RESOLUTION UV_FORK_STRATEGY UV_NO_VERIFY_HASHES
    UV_REQUIRE_HASHES UV_CONFIG_FILE UV_NO_CONFIG UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX UV_EXCLUDE_NEWER
    UV_NO_BINARY UV_NO_BUILD UV_NO_BUILD_ISOLATION UV_CUSTOM_COMPILE_COMMAND UV_PROJECT_ENVIRONMENT UV_PREVIEW
    UV_NO_CACHE UV_NO_INDEX PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CONSTRAINT PIP_PRE PIP_NO_BINARY PIP_TARGET
    PIP_CONFIG_FILE
    """
)
NEVER = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "LD_PRELOAD",
    "MLENV_BUILD_ALLOWED",
)


def test_uv_gets_what_reaches_the_network_and_nothing_else() -> None:
    environ = {**KEPT, **dict.fromkeys((*DROPPED, *NEVER, "UV_DEFAULT_INDEX", "ANYTHING"), "x")}
    assert uv.forwarded(environ) == {**KEPT, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "0", "UV_NO_WRAP": "1"}


@pytest.mark.parametrize(
    ("said", "timeout"),
    [({}, "12"), ({"UV_HTTP_TIMEOUT": "90"}, "90"), ({"UV_REQUEST_TIMEOUT": "90"}, None)],
)
def test_an_index_that_keeps_silent_is_given_up_unless_the_user_is_more_patient(
    said: dict[str, str], timeout: str | None
) -> None:
    assert uv.patient(said).get("UV_HTTP_TIMEOUT") == timeout
    assert uv.patient({"UV_HTTP_RETRIES": "0"})["UV_HTTP_RETRIES"] == "0"


def test_what_was_dropped_is_named() -> None:
    environ = {**KEPT, **dict.fromkeys((*DROPPED, *NEVER), "x")}
    assert uv.dropped(environ) == tuple(sorted(DROPPED))


def test_what_mlenv_hands_over_in_another_form_is_not_called_dropped() -> None:
    handled = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_OFFLINE", "UV_PYTHON_DOWNLOADS")
    assert uv.dropped(dict.fromkeys(handled, "1")) == ()


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_may_be_said_by_a_variable(value: str, offline: bool) -> None:
    assert uv.find({"UV_OFFLINE": value}).offline is offline


# ------------------------------------------------------------------------------------------------------ interpreters


def test_the_running_python_is_found_without_starting_anything(recorder: Recorder) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert uv.find_python(HOW, running) == uv.base_interpreter()
    assert recorder.calls == []


def test_another_python_is_asked_of_uv(recorder: Recorder) -> None:
    recorder.answers = [Completed(code=0, out="/opt/python3.99\n", err="")]
    assert uv.find_python(HOW, "3.99") == Path("/opt/python3.99")
    assert recorder.calls == [["/opt/uv", "python", "find", "--no-project", "--system", "--no-config", "3.99"]]


def test_a_python_that_is_not_there(recorder: Recorder, tmp_path: Path) -> None:
    recorder.answers = [Completed(code=2, out="", err="error: No interpreter found for Python 3.99")]
    with pytest.raises(ProjectError, match=r"Python 3\.99 is not on this machine"):
        uv.find_python(HOW, "3.99")
    with pytest.raises(ProjectError, match="there is no Python at"):
        uv.find_python(HOW, str(tmp_path / "python"))


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("")
    with pytest.raises(ProjectError, match="does not start as a Python"):
        uv.python_version(HOW, script)


def test_a_uv_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="can't be started: No such file"):
        uv.compile_(Uv(binary=tmp_path / "uv", env={}), TASK)


# ---------------------------------------------------------------------------------------------------------- start-up

HEAVY = (
    "tomlkit",
    "tomllib",
    "pynvml",
    "subprocess",
    "json",
    "packaging",
    "filelock",
    "platformdirs",
    "uv",
    "tempfile",
)


def test_the_command_line_imports_nothing_heavy() -> None:
    """Paid at every start, ``mlenv --version`` and shell completion included."""
    script = "import sys, mlenv.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True).stdout
    assert [name for name in HEAVY if name in loaded.split()] == []


@pytest.mark.parametrize(
    "blocks", [[b"12 MB\nerror: no\n", b"  cause: x\n"], [b"12 MB\ner", b"ror", b": no\n", b"  cause"]]
)
def test_progress_is_passed_on_and_an_error_is_not(blocks: list[bytes]) -> None:
    seen: list[bytes] = []
    passed = uv._until_error(seen.append)
    assert passed is not None
    for block in blocks:
        passed(block)
    assert b"".join(seen) == b"12 MB\n"


def test_progress_that_ends_like_an_error_is_not_lost() -> None:
    seen: list[bytes] = []
    passed = uv._until_error(seen.append)
    assert passed is not None
    for block in (b"downloading terror", b"s\r", b"done\n"):
        passed(block)
    assert b"".join(seen) == b"downloading terrors\rdone\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_list_of_packages_is_left_out_wherever_its_lines_are_cut(size: int) -> None:
    seen: list[bytes] = []
    passed = uv._until_error(seen.append)
    assert passed is not None
    text = (
        b"Prepared 2 packages\n \x1b[32m+\x1b[39m \x1b[1mtorch\x1b[0m\x1b[2m==2.15.0\x1b[0m\n + sympy==1.14.0\n  done\n"
    )
    for start in range(0, len(text), size):
        passed(text[start : start + size])
    assert b"".join(seen) == b"Prepared 2 packages\n  done\n"


def test_the_command_that_cleans_the_cache_works_wherever_it_is_pasted(tmp_path: Path) -> None:
    binary = tmp_path / "tool env" / "uv"
    binary.parent.mkdir()
    binary.touch(0o755)
    other = tmp_path / "other"
    other.mkdir()
    found = Uv(binary=binary, env={"PATH": str(other)})
    by_path = f"`'{binary}' cache clean a b`"
    assert uv.cache_clean(found, {"b", "a"}) == by_path
    (other / "uv").touch(0o755)
    assert uv.cache_clean(found, {"b", "a"}) == by_path
    (other / "uv").unlink()
    (other / "uv").symlink_to(binary)
    assert uv.cache_clean(found, {"b", "a"}) == "`uv cache clean a b`"
