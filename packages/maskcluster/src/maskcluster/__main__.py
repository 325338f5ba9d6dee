"""`python -m maskcluster`, for torchrun."""

from maskcluster.cli import console

if __name__ == "__main__":
    console()
