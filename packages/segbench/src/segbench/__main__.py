"""`python -m segbench`, and what torchrun starts: the command."""

from segbench.cli import console

if __name__ == "__main__":
    console()
