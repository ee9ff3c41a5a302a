from __future__ import annotations

import socket
import time

import pytest

from mlenv.system import reach


def test_an_address_is_its_own() -> None:
    assert reach.has_address("127.0.0.1", env={})


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert not reach.has_address("index.invalid", env={})


def test_a_slow_resolver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(5))
    start = time.monotonic()
    assert not reach.has_address("index.invalid", env={}, patience=0.05)
    assert time.monotonic() - start < 2


def test_behind_a_proxy_the_proxy_looks_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("looked up"))
    assert reach.has_address("index.invalid", env={"HTTPS_PROXY": "http://proxy.invalid"})
