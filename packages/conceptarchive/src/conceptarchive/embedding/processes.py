"""Which of several processes this one is."""

import os
from collections.abc import Mapping

from conceptarchive.errors import UsageError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Read what torchrun tells its processes.

    Args:
        environment: holds RANK, WORLD_SIZE and LOCAL_RANK, or none of them.

    Returns:
        rank: of this process, in [0, world).
        world: processes on all machines.
        local: rank on this machine, which is the number of its GPU.
        (0, 1, 0) outside of torchrun.

    Raises:
        UsageError: only some are set, or they are no ranks.
    """
    given = {name: environment[name] for name in NAMES if name in environment}
    if not given:
        return 0, 1, 0
    told = ", ".join(f"{name}={value}" for name, value in given.items())
    if len(given) < len(NAMES):
        raise UsageError(f"the environment has {told} of {', '.join(NAMES)}; set all or none")
    try:
        rank, world, local = (int(given[name]) for name in NAMES)
    except ValueError as error:
        raise UsageError(f"the environment has {told}; needs whole numbers") from error
    if not (0 <= rank < world and local >= 0):
        raise UsageError(f"the environment has {told}; needs 0 <= RANK < WORLD_SIZE")
    return rank, world, local


def device_of(device: str, local: int) -> str:
    """The device of one process: "cuda" becomes the GPU of its local rank."""
    return f"cuda:{local}" if device == "cuda" else device
