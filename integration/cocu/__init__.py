"""CoCu as a whole: pairs, a CLIP that curates, the archive, training, scores and a report."""
