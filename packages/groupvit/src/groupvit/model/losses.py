"""Contrastive losses between images and their texts, over the pairs of all ranks."""

from torch import Tensor
from torch.distributed import ProcessGroup

from groupvit.model.ranks import gather_rows
from groupvit.ops.multi_label_contrastive import two_way_logsumexp
from groupvit.precision import wide


def contrastive(
    image: Tensor, text: Tensor, scale: Tensor, group: ProcessGroup | None = None
) -> Tensor:
    """Symmetric InfoNCE over the pairs of a batch (CoCu, arXiv:2309.13505, eqs. 1-2).

        L = 1/2 mean_i [ CE(s z_i . W, i) + CE(s w_i . Z, i) ]

    Args:
        image: (B, D) unit rows z.
        text: (B, D) unit rows w; row i belongs to image i.
        scale: scalar s.
        group: as of `multi_label_contrastive`, of which this is the case of one text an image.

    Returns:
        Scalar; log(B) when all similarities are equal.
    """
    return multi_label_contrastive(image, text[:, None], scale, group)


def multi_label_contrastive(
    image: Tensor, texts: Tensor, scale: Tensor, group: ProcessGroup | None = None
) -> Tensor:
    """InfoNCE where every image has L texts (CoCu, eqs. 3-4, with the released weighting).

        image to text:  logsumexp_jm(s z_i . w_jm) - 1/L sum_l s z_i . w_il, mean over i
        text to image:  logsumexp_j (s w_il . z_j) - s w_il . z_i,           mean over i and l

    and half of each. An image's own texts share its target; all others are negatives, also those
    with the same words.

    Over W ranks j runs over the images of all of them. A rank compares its images with the texts of
    all ranks: the sums along a row are its images' normalisers, and the sums down a column, added
    up over ranks, those of the texts. So both directions need one product, and images stay where
    they are.

    Args:
        image: (B, D) unit rows z of this rank, float32 or narrower.
        texts: (B, L, D) unit rows w, of the same type.
        scale: scalar s, float32.
        group: the ranks that share a batch, B pairs each; None for a process alone.

    Returns:
        Scalar, of this rank's images and texts; the mean over ranks is the loss of the batch.
        (log(W B L) + log(W B)) / 2 when all similarities are equal.
    """
    rows = texts.flatten(0, 1)  # (B L, D)
    own = scale * (wide(image)[:, None] * wide(texts)).sum(dim=2)  # (B, L)
    over_texts, over_images = two_way_logsumexp(image, gather_rows(rows, group), scale)
    if group is not None:
        parts = gather_rows(over_images[None], group)  # (W, W B L), a row from each rank's images
        mine = parts.chunk(group.size(), dim=1)[group.rank()]  # (W, B L), of this rank's texts
        over_images = mine.logsumexp(dim=0)
    to_text = (over_texts - own.mean(dim=1)).mean()
    to_image = (over_images - own.flatten()).mean()
    loss: Tensor = (to_text + to_image) / 2
    return loss
