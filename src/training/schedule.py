"""Learning-rate schedules as functions of the step, so that a fit can resume anywhere."""

import math
from typing import Literal

Schedule = Literal["constant", "one_cycle", "cosine"]

WARM_UP = 0.3
"""Share of the steps in which a one-cycle schedule rises."""

FIRST = 1 / 25
"""Where a one-cycle schedule begins, as a share of its highest learning rate."""

LAST = FIRST / 10_000
"""Where a one-cycle schedule ends, as a share of its highest learning rate."""


def learning_rate_share(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate of a step, as a share of the highest.

    one_cycle: Smith & Topin, "Super-Convergence", 2018, as PyTorch's OneCycleLR has it by default:
    up in the first 30 % of the steps and down to almost nothing, both along half a cosine. cosine:
    Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5 with one period and no restart.

    Args:
        schedule: which.
        step: steps taken before, from 0.
        steps: of the whole fit, if nothing ends it early.
    """
    if schedule == "cosine":
        return _between(1.0, 0.0, step / steps)
    if schedule == "one_cycle":
        top = WARM_UP * steps - 1
        if step <= top:
            return _between(FIRST, 1.0, step / top)
        return _between(1.0, LAST, (step - top) / (steps - 1 - top))
    return 1.0


def _between(start: float, end: float, share: float) -> float:
    """Interpolate between two values along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
