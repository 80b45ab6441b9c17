"""Workers that train a search's trials: processes on this machine, or actors on a Ray cluster."""
