"""Speed and memory against plain PyTorch, libraries and the machine's own limits."""
