"""The concepts we know, and the captions that mention them."""
