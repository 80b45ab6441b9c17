"""Every random number follows from the study's seed and where it is used."""

import numpy as np

SAMPLER, TRIAL, INITIALISATION, SHUFFLE, DROPOUT, FINALIST = range(6)
"""What a seed is for: streams with different purposes never share random numbers."""


def derive_seed(seed: int, purpose: int, *path: int) -> int:
    """Return a 32-bit seed for one purpose at one place, such as (trial, epoch).

    The same arguments give the same seed in every process and on every machine; different ones
    give statistically independent streams (NumPy's ``SeedSequence``).
    """
    return int(np.random.SeedSequence([seed, purpose, *path]).generate_state(1)[0])
