"""Roll-up: the assignments of all stages become one soft map per final group."""

from collections.abc import Sequence
from functools import reduce

from torch import Tensor


def roll_up(assignments: Sequence[Tensor]) -> Tensor:
    """Compose assignments, first stage first (GroupViT, sec. 3.3).

        P = A_S ... A_2 A_1

    Args:
        assignments: (B, G_s, N_s) with N_{s+1} = G_s, columns summing to 1.

    Returns:
        (B, G, N), the probability that patch n belongs to final group g; columns sum to 1.

    Raises:
        ValueError: no assignment.
    """
    if not assignments:
        raise ValueError("roll_up needs the assignment of at least one stage")
    return reduce(lambda lower, upper: upper @ lower, assignments)
