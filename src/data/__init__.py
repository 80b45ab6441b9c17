"""Data sets: the catalog, idx files, the fixed train/validation split, batches on the device."""
