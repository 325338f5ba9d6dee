"""Zero-shot segmentation by names with a tuned model, and classification of masks."""
