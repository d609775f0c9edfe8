"""Floor 4: everything that depends on nnU-Net."""
