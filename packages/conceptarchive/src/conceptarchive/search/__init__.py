"""Nearest images: exact on CPU and GPU, or through an index with its recall measured."""
