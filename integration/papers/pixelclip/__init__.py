"""PixelCLIP at its published size: SA-1B, the true CLIP towers, the paper's tables."""
