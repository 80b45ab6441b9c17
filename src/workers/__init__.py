"""What trains trials for a search: worker processes on this machine, or actors on a Ray cluster."""
