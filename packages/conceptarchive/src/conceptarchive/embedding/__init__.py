"""Images and captions to unit rows, with any CLIP model."""
