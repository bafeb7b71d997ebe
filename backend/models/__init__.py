"""The model, its checkpoints, and generation."""
