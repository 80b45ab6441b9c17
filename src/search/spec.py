"""What a search is begun with."""

from typing import Literal

Sampler = Literal["tpe", "random"]

CurvesLevel = Literal["auto", "all", "best", "none"]
