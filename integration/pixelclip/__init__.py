"""PixelCLIP as a whole: captions, masks, tuning, scores, names and a report."""
