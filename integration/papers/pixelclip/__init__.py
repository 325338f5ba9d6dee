"""PixelCLIP at its published size: its photographs, the true CLIP towers, the paper's tables."""
