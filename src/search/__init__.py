"""Hyperband as Optuna studies: plan, pruner, storage, and the loop that fills them with trials."""
