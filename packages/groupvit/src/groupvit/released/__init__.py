"""The layouts of released checkpoints."""
