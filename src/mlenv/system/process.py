"""The only place that starts a process.

A child runs in a process group of its own, so that whatever ends mlenv (Ctrl-C, SIGTERM, an exception) ends the
child and everything it started within two seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mlenv.values import dataclass

_GRACE_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# What a scheduler or a supervisor sends to the program it started (Slurm's --signal=USR1 asks for a checkpoint).
_PASSED_ON = (
    (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
    if os.name == "posix"
    else ()
)

# The children that a thread waits for: an interruption is seen by the main thread alone, and must end all of them.
_waited_for: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


class Stopped(BaseException):
    """mlenv was interrupted: this thread's child was ended, or is not started any more."""


def stop() -> None:
    """End the children that other threads wait for and start no more of them: their ``run`` raises Stopped.

    For the main thread, when it is interrupted while it waits for threads.
    """
    _stopped.set()
    for child in list(_waited_for):
        _end(child)


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a process ended: its exit status and what it wrote (UTF-8, undecodable bytes replaced)."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    echo: Callable[[bytes], None] | None = None,
    terminal: bool = False,
) -> Completed:
    """Run ``argv`` to its end and return what it wrote.

    ``echo`` gets standard error as it comes. With ``terminal`` (POSIX) the child's standard error is a pseudo
    terminal, so that uv draws its progress bars. Raises FileNotFoundError or PermissionError where ``argv[0]``
    can't be started, Stopped after ``stop``.
    """
    if _stopped.is_set():
        raise Stopped
    reader, writer = _stderr_channel(terminal=terminal)
    held = _hold_signals()
    try:
        child = subprocess.Popen(
            [os.fspath(word) for word in argv],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=writer,
            start_new_session=os.name == "posix",
            preexec_fn=_end_with_parent(held),
        )
    except BaseException:
        os.close(reader)
        os.close(writer)
        _let_through(held)
        raise
    collected = bytearray()
    _waited_for.add(child)
    try:
        _let_through(held)  # a Ctrl-C that came meanwhile is raised here
        os.close(writer)
        pump = threading.Thread(target=_pump, args=(reader, collected, echo), daemon=True)
        pump.start()
        assert child.stdout is not None
        out = child.stdout.read()
        child.wait()
        pump.join()
        if _stopped.is_set():
            raise Stopped
    except BaseException:
        _end(child)
        raise
    finally:
        _waited_for.discard(child)
        if child.stdout is not None:
            child.stdout.close()
    return Completed(code=child.returncode, out=_text(out), err=_text(bytes(collected)))


def call(argv: Sequence[str | Path], *, env: Mapping[str, str]) -> int:
    """Run ``argv`` on our own terminal and return its exit status, 128 + N where signal N ended it.

    Ctrl-C reaches it from the terminal; every other signal that is meant for it is passed on, and it decides.
    """
    words = [os.fspath(word) for word in argv]
    if os.name != "posix":
        return subprocess.call(words, env=dict(env))
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: object) -> None:
        del frame
        received.append(number)
        if child is not None:
            child.send_signal(number)

    keys = signal.SIG_IGN if _in_foreground() else pass_on  # the terminal itself sends what its keys mean to both
    previous = {number: signal.signal(number, keys) for number in (signal.SIGINT, signal.SIGQUIT)}
    previous |= {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        child = subprocess.Popen(words, env=dict(env), preexec_fn=_default_signals)
        for number in received:  # came while it was being started
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    """Whether the keys of a terminal reach our process group."""
    try:
        with Path("/dev/tty").open("rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _default_signals() -> None:
    """The child, not mlenv, answers Ctrl-C while it runs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _stderr_channel(*, terminal: bool) -> tuple[int, int]:
    if terminal and os.name == "posix":
        import pty
        import termios

        reader, writer = pty.openpty()
        if sys.stderr.isatty():
            termios.tcsetwinsize(writer, termios.tcgetwinsize(sys.stderr.fileno()))
        return reader, writer
    return os.pipe()


def _pump(reader: int, collected: bytearray, echo: Callable[[bytes], None] | None) -> None:
    while True:
        try:
            block = os.read(reader, 65536)
        except OSError:  # Linux reports the end of a pseudo terminal as EIO
            block = b""
        if not block:
            break
        collected += block
        if echo is not None:
            echo(block)
    os.close(reader)


def _hold_signals() -> set[signal.Signals] | None:
    """Keep interruptions back while a child is started, as Python's fork hooks drop them. Returns the old mask."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})  # type: ignore[return-value]


def _let_through(held: set[signal.Signals] | None) -> None:
    if held is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _end_with_parent(held: set[signal.Signals] | None) -> Callable[[], None] | None:
    """On Linux the kernel ends the child when mlenv is killed: else it would go on in a folder that is swept.

    Only from the main thread: what runs between fork and exec is safe while there is no other one.
    """
    if held is None:
        return None
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)
        _let_through(held)

    return prepare


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and its whole group: asked first, killed after a grace, even if a second Ctrl-C comes meanwhile."""
    try:
        _signal(child, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    finally:
        _signal(child, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, number)
        elif child.poll() is None:
            child.terminate()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
