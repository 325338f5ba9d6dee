"""Figures of this machine: `python -m segbench.bench`."""
