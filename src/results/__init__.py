"""results/<dataset>/: its files, their records and tables, and where they come from."""
