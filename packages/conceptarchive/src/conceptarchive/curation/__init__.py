"""The method: expansion, ranking, clustering and sampling of an image's concepts."""
