from __future__ import annotations

import signal

import pytest

from medsynth.training import signals
from medsynth.training.signals import StopRequests


def test_a_second_request_stops_at_once_but_the_echo_of_the_first_does_not(monkeypatch):
    clock = iter([0.0, 0.5, 1.5])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(clock))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequests() as stop:
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert stop.received is None
