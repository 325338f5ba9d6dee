"""PixelCLIP: unlabelled masks, clustered online, teach CLIP to segment."""

__version__ = "0.1.0"
