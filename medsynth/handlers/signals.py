"""Ctrl-C and SIGTERM: asked once, stop in good order; asked again, stop at once."""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType, TracebackType

from tqdm import tqdm


class StopRequests(contextlib.AbstractContextManager["StopRequests"]):
    """Remembers a request to stop.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
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
        self.received = signal.Signals(number)
        self.__exit__(None, None, None)
        tqdm.write(f"{self.received.name}: stopping after this step; once more to stop at once", file=sys.stderr)
