"""Assignment of masks to prompts, unions of masks, and what tells that clustering works."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskcluster.masks.packed import pack
from maskcluster.model.clustering import (
    Assignment,
    ClusterUsage,
    assign_masks,
    is_collapsed,
    summarise,
    union_targets,
)


def features(masks: int, clusters: int, *, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Masks that each show one of K things, prompts near those, and which thing it is."""
    prompts = F.normalize(torch.randn(clusters, 16), dim=1)
    shown = torch.arange(masks) % clusters
    pooled = F.normalize(prompts[shown] + noise * torch.randn(masks, 16) / 4, dim=1)
    return pooled, prompts, shown


def usage_of(counts: list[int], *, spread: float = 0.1) -> ClusterUsage:
    shares = torch.tensor(counts, dtype=torch.float64)
    return ClusterUsage(
        counts=torch.tensor(counts),
        marginals=shares / shares.sum(),
        softness=0.5,
        spread=spread,
    )


# assignment


def test_masks_go_to_what_they_show() -> None:
    pooled, prompts, shown = features(60, 6)
    for balance in (True, False):
        found = assign_masks(pooled, prompts, eps=0.01, balance=balance)
        assert torch.equal(found.cluster, shown)


def test_balance_by_hand() -> None:
    """Three of four masks are nearest to prompt 0; the least certain of them is given away.

    Prompts are at 0 and 90 degrees, masks at 0, 20, 40 and 80. The border between the prompts, at
    45 degrees without help, moves to between 20 and 40.
    """
    angle = torch.tensor([0.0, 20.0, 40.0, 80.0]).deg2rad()
    pooled = torch.stack([angle.cos(), angle.sin()], dim=1)
    nearest = assign_masks(pooled, torch.eye(2), eps=0.05, balance=False)
    assert nearest.cluster.tolist() == [0, 0, 0, 1] and nearest.bias.tolist() == [0, 0]
    shared = assign_masks(pooled, torch.eye(2), eps=0.05, iterations=1000)
    assert shared.cluster.tolist() == [0, 0, 1, 1]
    assert shared.soft.sum(dim=0).tolist() == pytest.approx([2, 2], abs=1e-4)
    assert shared.bias[0] == 0 and shared.bias[1] > 0


def test_only_directions_count() -> None:
    pooled, prompts, _ = features(30, 5)
    found = assign_masks(pooled, prompts)
    longer = assign_masks(7 * pooled, prompts * torch.arange(1, 6)[:, None])
    assert torch.equal(found.cluster, longer.cluster)
    assert float((found.cosine - longer.cosine).abs().max()) < 1e-6
    assert torch.allclose(found.cosine, pooled @ prompts.mT, atol=1e-6)


def test_empty_mask_and_no_masks_are_assigned() -> None:
    found = assign_masks(torch.zeros(1, 4), torch.eye(4))
    assert found.cluster.tolist() == [0] and found.cosine.tolist() == [[0, 0, 0, 0]]
    none = assign_masks(torch.zeros(0, 4), torch.eye(4))
    assert none.cluster.shape == (0,) and none.bias.tolist() == [0] * 4


def test_half_precision_is_computed_in_float32_without_gradient() -> None:
    pooled, prompts, _ = features(20, 4)
    pooled, prompts = pooled.bfloat16(), prompts.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = assign_masks(pooled, prompts)
    want = assign_masks(pooled.float(), prompts.float())
    assert found.cosine.dtype == torch.float32 and not found.cosine.requires_grad
    assert torch.equal(found.cosine, want.cosine) and torch.equal(found.cluster, want.cluster)
    assert assign_masks(pooled.double(), prompts).bias.dtype == torch.float64


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.01, 1.0]), st.booleans())
def test_cluster_is_the_largest_of_the_soft_assignment(
    masks: int, clusters: int, eps: float, balance: bool
) -> None:
    pooled, prompts, _ = features(masks, clusters, noise=2)
    found = assign_masks(pooled.double(), prompts, eps=eps, balance=balance)
    soft = found.soft
    assert torch.allclose(soft.sum(dim=1), torch.ones(masks).double())
    assert torch.equal(soft.gather(1, found.cluster[:, None])[:, 0], soft.amax(dim=1))


@pytest.mark.parametrize(
    ("pooled", "prompts", "eps", "message"),
    [
        (torch.ones(3, 4), torch.ones(2, 5), 0.01, r"got \(3, 4\) and \(2, 5\)"),
        (torch.ones(3, 4, 1), torch.ones(2, 4), 0.01, r"\(M, D\) and \(K, D\)"),
        (torch.ones(3, 4), torch.ones(0, 4), 0.01, "K must be in"),
        (torch.ones(3, 4), torch.ones(2, 4), 0.0, "eps must be > 0, got 0.0"),
        (torch.full((3, 4), math.nan), torch.ones(2, 4), 0.01, "logits must be in"),
    ],
)
def test_wrong_features_are_refused(
    pooled: Tensor, prompts: Tensor, eps: float, message: str
) -> None:
    for balance in (True, False):
        with pytest.raises(ValueError, match=message):
            assign_masks(pooled, prompts, eps=eps, balance=balance)


# targets


def test_unions_by_hand() -> None:
    """Two images: in the first, two masks overlap in one cluster and one is in another."""
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3], masks[2, :, :1], masks[3, 5] = True, True, True, True
    owner, cluster = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 0, 2])
    targets = union_targets(pack(masks), owner, cluster, 2, 3)
    assert targets.shape == (2, 3, 32, 32) and targets.dtype == torch.bool
    assert targets.sum(dim=(2, 3)).tolist() == [[32, 0, 96], [0, 0, 32]]
    assert targets[0, 2, :3].all() and targets[0, 0, :, 0].all()  # both, where they overlap
    assert torch.equal(targets[1, 2], masks[3])


def test_unions_without_masks_are_empty() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    targets = union_targets(torch.zeros(0, 32, 4, dtype=torch.uint8), none, none, 2, 3)
    assert targets.shape == (2, 3, 32, 32) and not targets.any()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_unions_cover_what_masks_cover(count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 32, 32, generator=random) > 0.8
    owner = torch.randint(0, 3, (count,), generator=random)
    cluster = torch.randint(0, 4, (count,), generator=random)
    targets = union_targets(pack(masks), owner, cluster, 3, 4)
    for b in range(3):
        assert torch.equal(targets[b].any(dim=0), masks[owner == b].any(dim=0))
        for i in range(4):
            assert torch.equal(targets[b, i], masks[(owner == b) & (cluster == i)].any(dim=0))


def test_wrong_masks_are_refused() -> None:
    packed = torch.zeros(1, 32, 4, dtype=torch.uint8)
    for owner, cluster, message in (
        ([0, 0], [0], "masks disagree: 1, 2 and 1"),
        ([2], [0], r"owner must be in \[0, 2\), got \[2\]"),
        ([0], [3], r"cluster must be in \[0, 3\), got \[3\]"),
        ([0], [-1], "cluster must be"),
    ):
        with pytest.raises(ValueError, match=message):
            union_targets(packed, torch.tensor(owner), torch.tensor(cluster), 2, 3)


# usage


def test_usage_by_hand() -> None:
    """Four masks, three clusters, of which one is empty; logits that give 3/4, 1/4 and 0."""
    logits = torch.tensor([[3.0, 1.0, 1e-30]] * 3 + [[1.0, 3.0, 1e-30]], dtype=torch.float64).log()
    found = Assignment(
        cluster=torch.tensor([0, 0, 0, 1]), bias=torch.zeros(3).double(), cosine=logits, eps=1.0
    )
    usage = summarise(found)
    one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert usage.counts.tolist() == [3, 1, 0] and usage.masks == 4 and usage.used == 2
    assert usage.marginals.tolist() == pytest.approx([2.5 / 4, 1.5 / 4, 0])
    assert usage.softness == pytest.approx(one / math.log(3))
    assert usage.entropy == pytest.approx(one / math.log(3))
    assert usage.effective == pytest.approx(math.exp(one))
    assert usage.spread == pytest.approx(math.log(3) * math.sqrt(3 / 16 * 2 / 3))


def test_even_use_is_one_and_single_use_is_zero() -> None:
    assert usage_of([5, 5, 5, 5]).entropy == pytest.approx(1)
    assert usage_of([5, 5, 5, 5]).effective == pytest.approx(4)
    assert usage_of([20, 0, 0, 0]).entropy == 0 and usage_of([20, 0]).effective == 1
    assert usage_of([1, 1, 0, 0]).entropy == pytest.approx(1)  # two masks cannot be in more
    assert usage_of([7]).entropy == 1


def test_usage_of_no_masks_and_of_one_cluster() -> None:
    none = summarise(assign_masks(torch.zeros(0, 4), torch.eye(4)))
    assert (none.masks, none.used, none.softness, none.spread) == (0, 0, 0, 0)
    assert none.marginals.tolist() == [0] * 4 and not is_collapsed(none)
    one = summarise(assign_masks(torch.randn(9, 4), torch.ones(1, 4)))
    assert one.counts.tolist() == [9] and one.softness == 0 and not is_collapsed(one)


def test_balance_makes_marginals_equal() -> None:
    pooled, prompts, _ = features(400, 8, noise=4)
    few = summarise(assign_masks(pooled, prompts, eps=0.05, balance=False))
    shared = summarise(assign_masks(pooled, prompts, eps=0.05, iterations=100))
    assert shared.marginals.tolist() == pytest.approx([1 / 8] * 8, abs=1e-4)
    assert float((few.marginals - 1 / 8).abs().max()) > 1e-2
    assert shared.entropy > few.entropy


# collapse


def test_healthy_clustering_has_not_collapsed() -> None:
    pooled, prompts, _ = features(400, 8)
    for balance in (True, False):
        assert not is_collapsed(summarise(assign_masks(pooled, prompts, balance=balance)))


def test_all_masks_in_one_cluster_is_a_collapse() -> None:
    pooled, prompts, _ = features(400, 8, noise=1)
    pooled += 5 * prompts[3]
    assert is_collapsed(summarise(assign_masks(pooled, prompts, balance=False)))


def test_masks_all_alike_are_a_collapse_that_balance_hides_in_counts() -> None:
    torch.manual_seed(1)
    pooled, prompts, _ = features(400, 8)
    alike = pooled[:1] + 1e-5 * torch.randn(400, 16)
    usage = summarise(assign_masks(alike, prompts))
    assert usage.effective > 4  # shared out by what is next to nothing
    assert usage.spread < 1e-4
    assert is_collapsed(usage)


@pytest.mark.parametrize(
    ("counts", "collapsed"),
    [
        ([100, 0, 0, 0], True),
        ([97, 1, 1, 1], True),  # 1.18 clusters
        ([50, 50, 0, 0], False),
        ([20] * 6 + [0] * 58, True),  # 6 of 64, less than 6.4
        ([20] * 7 + [0] * 57, False),
        ([8] + [0] * 63, True),  # of 8 masks
        ([7] + [0] * 63, False),  # too few masks to say
    ],
)
def test_rule_of_counts(counts: list[int], collapsed: bool) -> None:
    assert is_collapsed(usage_of(counts)) is collapsed


def test_rule_of_spread() -> None:
    assert is_collapsed(usage_of([50, 50], spread=9e-4))
    assert not is_collapsed(usage_of([50, 50], spread=1.1e-3))
    assert not is_collapsed(usage_of([50, 50], spread=9e-4), least_spread=5e-4)
