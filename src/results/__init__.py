"""Files of results/<dataset>/: names, records, tables, test log, provenance."""
