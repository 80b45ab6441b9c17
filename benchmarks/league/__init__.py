"""A league of tuners, which replay tables of real training."""
