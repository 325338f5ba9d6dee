"""Evaluations: image by image, journalled, resumed, over several processes."""
