"""Where masks come from: superpixels, DINO's features, SAM."""
