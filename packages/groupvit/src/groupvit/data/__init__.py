"""From tar shards to batches."""
