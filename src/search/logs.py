"""How much of a search TensorBoard gets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CurvesLevel = Literal["auto", "all", "best", "none"]
"""What the user asks for."""
Shown = Literal["all", "results", "best", "none"]
"""What a study writes: the curves of all trials; those of the best and a row of HPARAMS of the
others; those of the best alone; or nothing."""

_CURVES_AT_MOST, _RESULTS_AT_MOST = 300, 1000
"""Trials whose curves, and whose rows of HPARAMS, TensorBoard shows without growing sluggish."""


@dataclass(frozen=True)
class Logs:
    """Where TensorBoard reads, and what the user wants to see there."""

    folder: Path
    level: CurvesLevel

    def shown(self, trials: int) -> Shown:
        """Decide what is written where so many trials are planned."""
        level = self.level
        if level == "auto":
            level = "all" if trials <= _CURVES_AT_MOST else "best"
        return "results" if level == "best" and trials <= _RESULTS_AT_MOST else level
