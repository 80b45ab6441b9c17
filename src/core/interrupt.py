"""Stopping a run in the middle: Ctrl-C, SIGTERM, or the time is up."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LATE = 0.01
"""Seconds from the deadline to its alarm, so that the clocks agree that the time is up."""


class Interrupted(BaseException):
    """Training was stopped from outside, for the reason given.

    No `Exception`, as `KeyboardInterrupt` is none: libraries pass over those in many places.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason, exit_code)
        self.reason = reason
        self.exit_code = exit_code
        """What the process should exit with: 128 + signal, as shells have it; 0 for a timeout."""

    def __str__(self) -> str:
        return self.reason


class Interruption:
    """Tells long work whether to stop; this one never says so."""

    def pending(self) -> Interrupted | None:
        """Return why to stop, if there is a reason."""
        return None

    def check(self) -> None:
        """Raise `Interrupted` if there is a reason to stop."""
        if reason := self.pending():
            raise reason

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` also in the middle of what cannot check, such as a download."""
        self.check()
        yield


class Signals(Interruption):
    """Stops on Ctrl-C, on SIGTERM, and when the time is up.

    Within this context manager a signal is only noted, and acted upon at the next `check`; a second
    Ctrl-C acts at once. Lightning would answer Ctrl-C with `sys.exit`, and leave the trial RUNNING.

    Args:
        timeout: seconds from now until the run is stopped.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._at_once = False

    def __enter__(self) -> "Signals":
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def pending(self) -> Interrupted | None:
        """Return why to stop, if a signal has come or the time is up."""
        if self._received is not None:
            name = "Ctrl-C" if self._received == signal.SIGINT else self._received.name
            return Interrupted(f"interrupted by {name}", 128 + self._received)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Interrupted("time is up", 0)
        return None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` whenever a signal comes or, but on Windows, the time is up."""
        alarm = None
        if self._deadline is not None and hasattr(signal, "setitimer"):
            alarm = signal.signal(signal.SIGALRM, lambda *_: self._raise_at_once())
            left = max(0.0, self._deadline - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, left + _LATE)
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False
            if alarm is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, alarm)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        self._raise_at_once()

    def _raise_at_once(self) -> None:
        if self._at_once:
            self._at_once = False  # not once more while what was interrupted is cleaned up
            self.check()
