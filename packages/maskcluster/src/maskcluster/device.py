"""Where to compute: a device by its name, or the best there is."""

import torch

from maskcluster.errors import UsageError


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """The device that a command's `--device` names.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).partition(chr(10))[0]}") from error
