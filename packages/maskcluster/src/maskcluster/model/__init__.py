"""The model that masks teach: dense CLIP, class prompts, online clustering, loss."""
