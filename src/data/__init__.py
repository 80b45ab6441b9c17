"""Data sets: a catalog, torchvision's files, one fixed split, batches that live on the device."""
