from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlenv.system import process
from support.world import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
PYTHON = Path(sys.executable)
ENV = {"PATH": os.defpath}


def run(script: str, *args: str) -> process.Completed:
    return process.run([PYTHON, "-c", script, *args], env=ENV)


def test_status_and_both_streams_are_returned() -> None:
    done = run("import sys; print('out'); sys.stderr.buffer.write(b'\\xff!'); sys.exit(3)")
    assert (done.code, done.out, done.err) == (3, "out\n", "\N{REPLACEMENT CHARACTER}!")


def test_much_on_both_streams_does_not_block() -> None:
    done = run("import sys; sys.stderr.write('e' * 500_000); sys.stdout.write('o' * 500_000)")
    assert (len(done.out), len(done.err)) == (500_000, 500_000)


def test_standard_error_is_handed_on_as_it_comes() -> None:
    blocks: list[bytes] = []
    script = "import sys; sys.stderr.write('one\\n'); sys.stderr.flush(); sys.stdin.read()"
    process.run([PYTHON, "-c", script], env=ENV, echo=blocks.append)
    assert b"".join(blocks) == b"one\n"


def test_on_a_terminal_the_child_sees_one() -> None:
    done = process.run([PYTHON, "-c", "import sys; print(sys.stderr.isatty())"], env=ENV, terminal=True)
    assert (done.code, done.out) == (0, "True\n")


def test_only_the_given_variables_reach_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLENV_TEST_VARIABLE", "x")
    assert "MLENV_TEST_VARIABLE" not in run("import os; print(sorted(os.environ))").out


def test_a_program_that_is_not_there_leaves_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        process.run(["/nowhere/program"], env=ENV)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_ended_process_is_told_by_its_signal() -> None:
    assert run("import os; os.kill(os.getpid(), 9)").code == -9


STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(60)
"""


def test_an_interruption_ends_the_child_and_what_it_started_within_two_seconds(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    os_thread = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: pids.exists() and " " in pids.read_text(), what="the child")
        signal.pthread_kill(os_thread, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(STUBBORN, str(pids))
    started = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(_runs(pid) for pid in started), what="the processes to end", seconds=2)
    assert time.monotonic() - start < 10


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(("script", "code"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", 143)])
def test_a_call_returns_the_status_as_a_shell_would(script: str, code: int) -> None:
    assert process.call([PYTHON, "-c", script], env=ENV) == code


def test_a_call_puts_the_signal_handlers_back() -> None:
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    process.call([PYTHON, "-c", ""], env=ENV)
    assert [signal.getsignal(number) for number in numbers] == before


def test_stop_ends_what_other_threads_wait_for_and_starts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_stopped", threading.Event())
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run(
                "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)",
                str(tmp_path / "started"),
            )
        except BaseException as error:
            raised.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    wait_until((tmp_path / "started").exists, what="the child")
    process.stop()
    worker.join(2)
    assert [type(error) for error in raised] == [process.Stopped]
    with pytest.raises(process.Stopped):
        run("raise SystemExit('started')")


@pytest.mark.skipif(sys.platform != "linux", reason="signals are held back where a hook runs in the child")
def test_an_interruption_while_the_child_is_started_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    if threading.active_count() > 1:
        pytest.skip("another thread runs here")
    real, started = subprocess.Popen, []

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        started.append(real(*args, **options))
        return started[0]

    monkeypatch.setattr("mlenv.system.process.subprocess.Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(60)")
    assert started[0].returncode is not None
