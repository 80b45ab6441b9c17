"""One configuration → one fitted model: network, optimizer step, fit, checkpoint."""
