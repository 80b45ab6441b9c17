"""HCR-Lightning: Hyperband tunes a small network that reads handwritten characters."""
