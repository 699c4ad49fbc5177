"""Ctrl-C and SIGTERM: the first stops a run after the current step, a second one at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from types import FrameType, TracebackType

from tqdm import tqdm

_ECHO_SECONDS = 1.0  # torchrun and batch systems pass on a signal that the process already got from the terminal


class StopRequests(contextlib.AbstractContextManager["StopRequests"]):
    """Remembers a request to stop.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._time = 0.0
        self._former: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        with contextlib.suppress(ValueError):  # only the main thread hears signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            self._time = time.monotonic()
            tqdm.write(f"{self.received.name}: stopping after this step; once more to stop at once", file=sys.stderr)
        elif time.monotonic() - self._time > _ECHO_SECONDS:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
