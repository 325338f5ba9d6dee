"""What to watch while a PixelCLIP learns: whether clusters and the loss are sound, and data."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor

from maskcluster.config import TrainConfig
from maskcluster.errors import DivergedError
from maskcluster.model.clustering import Assignment, is_collapsed, summarise
from maskcluster.training.launch import Ranks

Figure = float | list[float]
"""One number, or one for each cluster."""

WINDOW = 20
"""Lines of the log over which a loss is judged."""
ABOVE_CHANCE = 2.0
"""Times the loss of a model that knows nothing above which a run has diverged."""
CHANCE = math.log(2)
"""Cross-entropy of logits of 0, whatever the targets."""
PATIENCE = 5
"""Lines of the log in a row that show a collapse before it is said."""

SEEN = ("images", "images_without_masks", "masks")
"""What a `Tally` counts."""


@torch.no_grad()
def cluster_statistics(assignment: Assignment, ranks: Ranks) -> dict[str, Figure]:
    """How the masks of a batch, on all ranks, use the clusters, and what the logits look like.

    Args:
        assignment: of this rank's masks.
        ranks: they must call this together.

    Returns:
        `masks`, `collapsed` (0 or 1, see `is_collapsed`); of `ClusterUsage` `cluster_counts`,
        `cluster_marginals`, `clusters_used`, `clusters_effective`, `cluster_entropy`, `softness`
        and `spread`. Of cosines, the logits times eps: `cosine_mean` and `cosine_std` over all
        masks and clusters, `cosine_own` of masks with their clusters, and `cosine_margin` of that
        over the best of the other clusters. `moved`, the share of masks that balance took from
        the nearest prompt, and `bias_most`, the largest bias, in logits.
    """
    usage = summarise(assignment, group=ranks.group)
    return {
        "masks": usage.masks,
        "collapsed": float(is_collapsed(usage)),
        "cluster_counts": usage.counts.tolist(),
        "cluster_marginals": usage.marginals.tolist(),
        "clusters_used": usage.used,
        "clusters_effective": usage.effective,
        "cluster_entropy": usage.entropy,
        "softness": usage.softness,
        "spread": usage.spread,
        **_logit_statistics(assignment, ranks),
        "bias_most": float(assignment.bias.max()),
    }


def _logit_statistics(assignment: Assignment, ranks: Ranks) -> dict[str, float]:
    cosine = assignment.cosine.double()  # (M, K)
    index = assignment.cluster[:, None]  # (M, 1)
    own = cosine.gather(1, index)  # (M, 1)
    others = cosine.scatter(1, index, -1.0)  # with one cluster nothing is farther than -1
    sums = torch.stack(
        [
            cosine.sum(),
            cosine.square().sum(),
            own.sum(),
            (own - others.amax(dim=1, keepdim=True)).sum(),
            (own[:, 0] < cosine.amax(dim=1)).sum().double(),
            own.new_tensor(float(len(own))),
        ]
    )  # (6,)
    total, squares, near, margin, moved, masks = ranks.sum(sums).tolist()
    masks = max(masks, 1.0)
    mean = total / masks / cosine.shape[1]
    variance = squares / masks / cosine.shape[1] - mean**2
    return {
        "cosine_mean": mean,
        "cosine_std": math.sqrt(max(variance, 0.0)),
        "cosine_own": near / masks,
        "cosine_margin": margin / masks,
        "moved": moved / masks,
    }


class Tally:
    """Photographs and masks of a run so far, over all ranks.

    Args:
        before: what a run that goes on had counted.
    """

    def __init__(self, before: Mapping[str, int] | None = None) -> None:
        self._before = dict(before or {})
        self._since = [0] * len(SEEN)

    def add(self, images: int, owner: Tensor) -> None:
        """Count a batch of this rank; `owner` (M,) is still on the CPU."""
        with_masks = len(torch.unique_consecutive(owner))
        for index, count in enumerate((images, images - with_masks, len(owner))):
            self._since[index] += count

    def total(self, ranks: Ranks, device: torch.device) -> dict[str, int]:
        """Counts by name; all ranks must call this together."""
        sums = ranks.sum(torch.tensor(self._since, device=device)).tolist()
        return {n: self._before.get(n, 0) + c for n, c in zip(SEEN, sums, strict=True)}


class LossWatch:
    """Stops a run that has diverged, over the last lines of its log.

    Args:
        warmup_steps: nothing is judged in them.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        self._warmup = warmup_steps
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def see(self, loss: float, step: int) -> None:
        """Take in a line of the log.

        Raises:
            DivergedError: the median of the last lines is far above the loss of a model that knows
                nothing.
        """
        self._recent.append(loss)
        if step <= self._warmup or len(self._recent) < WINDOW:
            return
        recent = median(self._recent)
        if recent > ABOVE_CHANCE * CHANCE:
            raise DivergedError(
                f"diverged at step {step}: over the last {WINDOW} lines of the log the loss is "
                f"{recent:.2f}, that of a model that knows nothing is {CHANCE:.2f}; earlier "
                "checkpoints are kept: train in another folder with lower rates, optim.decoder_lr "
                "first, or with optim.clip_grad_norm = 0.01"
            )


class ClusterWatch:
    """Says once each what is wrong with clusters, from the lines of the log in their order.

    Args:
        config: the recipe.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._clusters, self._balance = config.cluster.clusters, config.cluster.balance
        self._collapsed = 0  # lines in a row
        self._said: set[str] = set()

    def see(self, record: Mapping[str, object]) -> list[str]:
        """Take in a line of the log; what there is to say now, for people."""
        if "collapsed" not in record:
            return []
        self._collapsed = self._collapsed + 1 if record["collapsed"] else 0
        found = []
        if self._collapsed >= PATIENCE:
            found.append(self._once("collapse", self._collapse(record)))
        if record["masks"] < self._clusters:  # type: ignore[operator]  # a number
            found.append(self._once("few", self._few(record)))
        return [what for what in found if what]

    def _once(self, kind: str, what: str) -> str:
        is_new = kind not in self._said
        self._said.add(kind)
        return what if is_new else ""

    def _collapse(self, record: Mapping[str, object]) -> str:
        remedies = "train in another folder with a lower optim.prompt_lr or optim.lr"
        if not self._balance:
            remedies = "train with cluster.balance = true"
        return (
            f"the clustering has collapsed: for {PATIENCE} lines of the log masks are told apart "
            f"no more (clusters in effective use: {record['clusters_effective']:.1f} of "
            f"{self._clusters}; spread of cosines: {record['spread']:.1e}); {remedies}, and look "
            "at clusters.png"
        )

    def _few(self, record: Mapping[str, object]) -> str:
        return (
            f"a batch has {record['masks']} masks for {self._clusters} clusters, so that some "
            "clusters stay empty and shares mean little; raise data.batch, lower cluster.clusters "
            "or use finer masks"
        )
