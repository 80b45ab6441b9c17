"""Errors, checks, files, signals, seeds, metrics: what every other package may use."""
