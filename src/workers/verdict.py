"""What becomes of a trial after a look."""

from typing import Literal

Verdict = Literal["go on", "pause", "stop"]
"""It goes on; it waits with its state kept; it is over."""
