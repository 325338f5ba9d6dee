"""Class scores of every kind that a resize and an argmax may get wrong."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, int, int]


def normal(shape: Shape) -> Tensor:
    return torch.randn(shape)


def smooth(shape: Shape) -> Tensor:
    """Blots and some texture, as a model's score maps have."""
    coarse = torch.randn(1, shape[0], max(shape[1] // 8, 1), max(shape[2] // 8, 1))
    blots = F.interpolate(coarse, shape[1:], mode="bilinear")[0]
    return blots + 0.1 * torch.randn(shape)


def equal(shape: Shape) -> Tensor:
    return torch.full(shape, 0.3)


def ulp_apart(shape: Shape) -> Tensor:
    """Scores next to 0.1, at most three representable numbers away."""
    bits = torch.tensor(0.1).view(torch.int32) + torch.randint(-3, 4, shape, dtype=torch.int32)
    return bits.view(torch.float32)


def flat_ulp_apart(shape: Shape) -> Tensor:
    """As `ulp_apart`, but every class has one score everywhere."""
    return ulp_apart((shape[0], 1, 1)).expand(shape).contiguous()


def tied(shape: Shape) -> Tensor:
    return torch.randint(0, 3, shape).float()


def huge(shape: Shape) -> Tensor:
    return torch.randn(shape).clamp(-1, 1) * 1e38


def subnormal(shape: Shape) -> Tensor:
    return torch.randint(-5, 6, shape).float() * 2.0**-149


def masked(shape: Shape) -> Tensor:
    """Half of the classes are switched off."""
    scores = torch.randn(shape)
    scores[::2] = -1e30
    return scores


KINDS: dict[str, Callable[[Shape], Tensor]] = {
    function.__name__: function
    for function in (
        normal,
        smooth,
        equal,
        ulp_apart,
        flat_ulp_apart,
        tied,
        huge,
        subnormal,
        masked,
    )
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Shape], Tensor]:
    """Makes (C, h, w) scores."""
    return KINDS[request.param]


@pytest.fixture(scope="session")
def draw() -> dict[str, Callable[[Shape], Tensor]]:
    """Every kind by name."""
    return KINDS
