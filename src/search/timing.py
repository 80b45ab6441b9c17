"""Timing: the waits of a search's loop, and its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the loop waits for what, in seconds."""

    poll: float = 0.2
    """Between two looks at whether to stop."""
    look: float = 2.0
    """Between two looks at what other searches on the same studies have done."""
    starting: float = 1.0
    """In which trials are started before those that run are heard again."""
    pause: float = 2.0
    """In which nothing is started after a failure, twice as many after a second one in a row: what
    caused it, such as another program's hunger for memory, may pass."""
    silence: float = 600.0
    """Without a word after which a worker is given up: for want of memory a thread may wait for
    ever. Workers speak after every chunk of training batches; a pass over validation images is the
    longest that they are silent."""
    clock: Callable[[], float] = time.monotonic
