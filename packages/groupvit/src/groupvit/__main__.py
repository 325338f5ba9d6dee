"""`python -m groupvit`, for torchrun."""

from groupvit.cli import console

if __name__ == "__main__":
    console()
