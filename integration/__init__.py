"""Recipes that compose the packages and reproduce the papers."""

__version__ = "0.1.0"
