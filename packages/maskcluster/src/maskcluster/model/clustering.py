"""Which masks show the same thing? The idea of PixelCLIP. Start here.

PixelCLIP (arXiv:2409.19846) teaches CLIP to segment from masks that have no names. Every step:

1. A momentum copy of the image tower gives each mask of the batch a feature, the mean over its
   pixels (`maskcluster.ops.mask_pool`).
2. K class prompts, learnt words that go through the frozen text tower, give K features in the same
   space. They are the centres of K clusters, for all images there are.
3. Each mask goes to one prompt: `assign_masks`, in this file. Taking the nearest would soon give
   all masks to a few prompts, and those would be all that is learnt; so the masks of a batch are
   shared equally among prompts (`maskcluster.ops.sinkhorn`). No gradient passes.
4. Masks of one image in one cluster become one region: `union_targets`. The student has to find
   the region of every prompt from its own features of the image, by cosine. The gradient changes
   image tower and prompts, and the next step clusters with a better space
   (`maskcluster.model.pixelclip`).

The text tower keeps the clusters among meanings that words have, so that afterwards the names of
any classes take the place of the prompts. `summarise` and `is_collapsed` tell whether all is well.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from maskcluster.masks.packed import unpack
from maskcluster.ops.sinkhorn import balanced_assign

EPS_VIT = 0.01
"""What cosines are divided by in the published training of ViT."""

EPS_CONVNEXT = 1.0
"""The same for ConvNeXt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The cluster of each mask, and why."""

    cluster: Tensor
    """(M,) int64 in [0, K): argmax of cosine / eps + bias, the lowest of a tie."""

    bias: Tensor
    """(K,) what is added to the logits of each cluster to give it its share, the least is 0."""

    cosine: Tensor
    """(M, K) of each mask's feature with each prompt, in [-1, 1]."""

    eps: float
    """What cosines are divided by."""

    @property
    def soft(self) -> Tensor:
        """(M, K) probabilities of which `cluster` is the largest; rows sum to 1."""
        return (self.cosine / self.eps + self.bias).softmax(dim=1)


@torch.no_grad()
def assign_masks(
    pooled: Tensor,
    prompts: Tensor,
    *,
    eps: float = EPS_VIT,
    iterations: int = 3,
    balance: bool = True,
    group: ProcessGroup | None = None,
) -> Assignment:
    """Assign every mask to a class prompt (PixelCLIP, sec. 3.2).

        z_ni = cos(f_M(n), f_C(i)) / eps
        cluster = `balanced_assign(z)`, or argmax_i z_ni without balance

    Args:
        pooled: (M, D) features f_M of masks, of any length: only directions count. A row of zeros,
            which an empty mask has, is equally far from all prompts.
        prompts: (K, D) features f_C of class prompts, likewise; 1 <= K <= 4096.
        eps: > 0. Small, a mask insists on what is nearest; large, all clusters may have it.
        iterations: of Sinkhorn.
        balance: whether clusters share the masks equally. False is the ablation, and `bias` is 0.
        group: ranks that share the batch of masks; None for a process alone. All of them must call
            this together if there is balance.

    Returns:
        Computed in float32, or float64 if either input is; no gradient.

    Raises:
        ValueError: shapes disagree, eps is not > 0, or a feature is not finite.
    """
    if pooled.ndim != 2 or prompts.ndim != 2 or pooled.shape[1] != prompts.shape[1]:
        shapes = f"{tuple(pooled.shape)} and {tuple(prompts.shape)}"
        raise ValueError(f"masks and prompts must be (M, D) and (K, D) features, got {shapes}")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    cosine = _cosines(pooled, prompts)  # (M, K)
    if balance:
        cluster, bias = balanced_assign(cosine / eps, iterations, group=group)
    else:
        cluster, bias = balanced_assign(cosine / eps, 0)
    return Assignment(cluster=cluster, bias=bias, cosine=cosine, eps=eps)


def union_targets(
    packed: Tensor, owner: Tensor, cluster: Tensor, images: int, clusters: int
) -> Tensor:
    """Unite the masks of each image that are in one cluster (PixelCLIP, sec. 3.2).

        T[b, i] = union of masks n with owner_n = b and cluster_n = i

    For pictures and tests: training uses `maskcluster.ops.mask_bce`, which stores no targets.

    Args:
        packed: (M, S, S // 8) uint8 masks (`maskcluster.masks.packed`).
        owner: (M,) int64 in [0, B).
        cluster: (M,) int64 in [0, K).
        images: B.
        clusters: K.

    Returns:
        (B, K, S, S) bool. Masks may overlap, and so may clusters; most pairs (b, i) have no mask.

    Raises:
        ValueError: shapes disagree, or an index is out of range.
    """
    if not len(packed) == len(owner) == len(cluster):
        raise ValueError(f"masks disagree: {len(packed)}, {len(owner)} and {len(cluster)}")
    for name, index, end in (("owner", owner, images), ("cluster", cluster, clusters)):
        if bool(((index < 0) | (index >= end)).any()):
            raise ValueError(f"{name} must be in [0, {end}), got {index.tolist()}")
    masks = unpack(packed)  # (M, S, S)
    targets = masks.new_zeros((images, clusters, *masks.shape[1:]))
    for mask, b, i in zip(masks, owner.tolist(), cluster.tolist(), strict=True):
        targets[b, i] |= mask
    return targets


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterUsage:
    """How a batch of masks uses K clusters: for logs. On all ranks the same."""

    counts: Tensor
    """(K,) int64, masks in each cluster."""

    marginals: Tensor
    """(K,) share of each cluster of the soft assignment; sums to 1, and with balance each nears 1/K
    as iterations grow. 0 if there are no masks."""

    softness: float
    """Mean entropy of a mask's soft assignment over log K: 0 is certain, 1 is any cluster. Large
    `eps` makes it large; it says little by itself, and much when it changes. 0 for K = 1."""

    spread: float
    """How far apart masks are as prompts see them: the standard deviation over masks of the cosine
    with a prompt, as root mean square over prompts. 0 if all masks are alike."""

    @property
    def masks(self) -> int:
        """M, over all ranks."""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """Clusters with a mask."""
        return int((self.counts > 0).sum())

    @property
    def entropy(self) -> float:
        """Entropy of the shares of `counts` over log min(M, K), the most there can be.

        1 if masks are spread as evenly as they can be, 0 if all are in one cluster. Of one mask or
        one cluster it is 1.
        """
        most = min(self.masks, len(self.counts))
        return math.log(self.effective) / math.log(most) if most > 1 else 1.0

    @property
    def effective(self) -> float:
        """Number of clusters that is used in effect: exp of the entropy of the shares of `counts`.

        n clusters with equal counts are n; clusters with few masks count for little.
        """
        shares = self.counts.double() / max(self.masks, 1)  # (K,)
        return math.exp(float(torch.special.entr(shares).sum()))


@torch.no_grad()
def summarise(assignment: Assignment, *, group: ProcessGroup | None = None) -> ClusterUsage:
    """Count how masks use clusters, over all ranks; this waits for the device, so log seldom.

    Args:
        assignment: of this rank's masks; there may be none.
        group: the ranks, which must call this together; None for a process alone.
    """
    clusters = assignment.cosine.shape[1]
    soft, cosine = assignment.soft.double(), assignment.cosine.double()  # (M, K) each
    sums = torch.cat(
        [
            assignment.cluster.bincount(minlength=clusters).double(),
            soft.sum(dim=0),
            torch.special.entr(soft).sum().view(1),
        ]
    )  # (2 K + 1,)
    _add_ranks(sums, group)
    counts, mass, entropy = sums[:clusters], sums[clusters:-1], sums[-1]
    masks = max(float(counts.sum()), 1.0)

    mean = cosine.sum(dim=0)  # (K,)
    _add_ranks(mean, group)
    squares = (cosine - mean / masks).square().sum().view(1)
    _add_ranks(squares, group)
    return ClusterUsage(
        counts=counts.round().long(),
        marginals=mass / masks,
        softness=float(entropy) / masks / math.log(clusters) if clusters > 1 else 0.0,
        spread=math.sqrt(float(squares) / masks / clusters),
    )


def is_collapsed(
    usage: ClusterUsage, *, least_share: float = 0.1, least_spread: float = 1e-3
) -> bool:
    """Whether the clustering has stopped telling masks apart.

    Either of two things is a collapse. Less than eight masks, or one cluster, say nothing: False.

    - Few clusters are used: `usage.effective` is below `least_share` of min(M, K), or below 1.5.
      Balance prevents it by construction; without, it is how training fails.
    - All masks look alike: `usage.spread` is below `least_spread`. Balance hides this in the
      counts, as it shares even equal masks among clusters, by rounding. CLIP's features of
      different objects have a spread of some 1e-2.

    Args:
        usage: of a batch.
        least_share: in [0, 1].
        least_spread: in cosines.
    """
    if usage.masks < 8 or len(usage.counts) < 2:
        return False
    most = min(usage.masks, len(usage.counts))
    few = usage.effective < max(least_share * most, 1.5)
    return few or usage.spread < least_spread


def _cosines(rows: Tensor, others: Tensor) -> Tensor:
    """(M, K) cosines in float32 at least, whatever autocast says."""
    with torch.autocast(rows.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(rows.dtype, others.dtype), torch.float32)
        return F.normalize(rows.to(dtype), dim=1) @ F.normalize(others.to(dtype), dim=1).mT


def _add_ranks(value: Tensor, group: ProcessGroup | None) -> None:
    """Sum over ranks in place."""
    if group is not None:
        dist.all_reduce(value, group=group)
