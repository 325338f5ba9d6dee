"""From photographs and their masks to batches of views."""
