"""The device that a command is given by its name."""

import torch

from segbench.errors import UsageError


def named_device(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).partition(chr(10))[0]}") from error
