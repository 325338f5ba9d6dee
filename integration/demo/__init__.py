"""A local web page: segment a picture by words, and walk through a concept archive."""
