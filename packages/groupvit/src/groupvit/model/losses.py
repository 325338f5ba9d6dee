"""Contrastive losses between images and their texts."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over the pairs of a batch (CoCu, arXiv:2309.13505, eqs. 1-2).

        L = 1/2 mean_i [ CE(s z_i . W, i) + CE(s w_i . Z, i) ]

    Args:
        image: (B, D) unit rows z.
        text: (B, D) unit rows w; row i belongs to image i.
        scale: scalar s.

    Returns:
        Scalar; log(B) when all similarities are equal.
    """
    logits = scale * image @ text.mT  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def multi_label_contrastive(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE where every image has L texts (CoCu, eqs. 3-4, with the released weighting).

        image to text:  logsumexp_jm(s z_i . w_jm) - 1/L sum_l s z_i . w_il, mean over i
        text to image:  logsumexp_j (s w_il . z_j) - s w_il . z_i,           mean over i and l

    and half of each. An image's own texts share its target; all others are negatives, also those
    with the same words.

    Args:
        image: (B, D) unit rows z.
        texts: (B, L, D) unit rows w.
        scale: scalar s.

    Returns:
        Scalar; (log(B L) + log(B)) / 2 when all similarities are equal.
    """
    batch, labels, _ = texts.shape
    logits = scale * image @ texts.flatten(0, 1).mT  # (B, B L)
    own = scale * torch.einsum("bd,bld->bl", image, texts)  # (B, L)
    to_text = (logits.logsumexp(dim=1) - own.mean(dim=1)).mean()
    to_image: Tensor = (logits.view(batch, batch, labels).logsumexp(dim=0) - own).mean()
    return (to_text + to_image) / 2
