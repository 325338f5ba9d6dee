"""Losses: closed forms, and the equations restated with loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from groupvit.model.losses import contrastive, multi_label_contrastive


def rows(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("batch", [2, 7])
def test_equal_similarities_give_log_batch(batch: int) -> None:
    same = rows(1, 6).expand(batch, 6)
    texts = same[:, None].expand(batch, 3, 6)
    scale = torch.tensor(14.0)
    torch.testing.assert_close(contrastive(same, same, scale), torch.tensor(math.log(batch)))
    want = (math.log(3 * batch) + math.log(batch)) / 2
    torch.testing.assert_close(multi_label_contrastive(same, texts, scale), torch.tensor(want))


@given(batch=st.integers(2, 6), seed=st.integers(0, 999), scale=st.floats(0.1, 50))
def test_contrastive_is_what_its_equation_says(batch: int, seed: int, scale: float) -> None:
    image, text = rows(batch, 5, seed=seed), rows(batch, 5, seed=seed + 1)
    total = 0.0
    for i in range(batch):
        to_text = [scale * float(image[i] @ text[j]) for j in range(batch)]
        to_image = [scale * float(text[i] @ image[j]) for j in range(batch)]
        for logits in (to_text, to_image):
            total -= (
                logits[i] - math.log(sum(math.exp(x - max(logits)) for x in logits)) - max(logits)
            )
    got = contrastive(image, text, torch.tensor(scale))
    assert float(got) == pytest.approx(total / (2 * batch), abs=1e-4)


@given(batch=st.integers(2, 5), labels=st.integers(1, 4), seed=st.integers(0, 999))
def test_multi_label_is_what_its_equation_says(batch: int, labels: int, seed: int) -> None:
    image, texts = rows(batch, 5, seed=seed), rows(batch, labels, 5, seed=seed + 1)
    scale = 3.0
    to_text = to_image = 0.0
    for i in range(batch):
        every = [scale * float(image[i] @ texts[j, m]) for j in range(batch) for m in range(labels)]
        normaliser = math.log(sum(math.exp(x) for x in every))
        for m in range(labels):
            mine = scale * float(image[i] @ texts[i, m])
            to_text += (normaliser - mine) / labels / batch
            images = [scale * float(image[j] @ texts[i, m]) for j in range(batch)]
            to_image += (math.log(sum(math.exp(x) for x in images)) - mine) / (batch * labels)
    got = multi_label_contrastive(image, texts, torch.tensor(scale))
    assert float(got) == pytest.approx((to_text + to_image) / 2, abs=1e-4)


def test_one_label_is_the_plain_contrastive_loss() -> None:
    image, text, scale = rows(6, 8), rows(6, 8, seed=1), torch.tensor(10.0)
    torch.testing.assert_close(
        multi_label_contrastive(image, text[:, None], scale), contrastive(image, text, scale)
    )


def test_perfect_pairs_cost_almost_nothing_and_swapped_pairs_much() -> None:
    image, scale = torch.eye(4), torch.tensor(100.0)
    assert float(contrastive(image, image, scale)) < 1e-6
    assert float(contrastive(image, image.roll(1, 0), scale)) == pytest.approx(100, abs=1e-3)


def test_texts_of_one_image_share_its_target() -> None:
    """Which of an image's own texts stands where does not matter."""
    image, texts, scale = rows(4, 8), rows(4, 3, 8, seed=1), torch.tensor(5.0)
    torch.testing.assert_close(
        multi_label_contrastive(image, texts.flip(1), scale),
        multi_label_contrastive(image, texts, scale),
    )
