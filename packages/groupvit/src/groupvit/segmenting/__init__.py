"""Zero-shot segmentation and classification with a trained model."""
