"""Losses of masks, and of eigenvectors whose sign means nothing."""

import torch
from torch import Tensor, nn

from .model import Cut, Output


def projector_loss(cut: Cut, mask: Tensor) -> Tensor:
    r"""(batch,) how far the eigenvector is from the mask, as the projectors on them are:

    $$|u u^\top - g g^\top|^2 = 2 - 2 (u^\top g)^2,$$

    u and g the vector and the mask (batch, n) on the nodes of the picture, each times $D^{1/2}$, with its mean by D taken out,
    and normalised. Either sign of v gives the same; 0 for a constant mask.
    """
    u, known = _direction(cut.vector, cut.degree)
    g, varies = _direction(mask, cut.degree)
    return torch.where(known & varies, 2 - 2 * (u * g * cut.degree).sum(-1).square(), 0)


def _direction(values: Tensor, degree: Tensor) -> tuple[Tensor, Tensor]:
    """Values with x'D1 = 0 and x'Dx = 1, and whether there are such: a constant has none."""
    mean = (values * degree).sum(-1, keepdim=True) / degree.sum(-1, keepdim=True)
    centred = values - mean
    size = (centred.square() * degree).sum(-1, keepdim=True)
    known = size > 1e-12 * (values.square() * degree).sum(-1, keepdim=True)
    return centred / torch.where(known, size, 1).sqrt(), known[..., 0]


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """(batch,) cross-entropy of a node plus 1 - IoU, both of probabilities; logits and mask (batch, height, width)."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((1, 2))
    p = torch.sigmoid(logits)
    both, either = (p * mask).sum((1, 2)), (p + mask - p * mask).sum((1, 2))
    return entropy + 1 - (both + 1) / (either + 1)


def segmentation_loss(output: Output, mask: Tensor) -> Tensor:
    """(batch,) the loss of the mask, and for a cut that of its eigenvector too."""
    loss = mask_loss(output.logits, mask)
    if output.cut is None:
        return loss
    return loss + projector_loss(output.cut, mask.flatten(1).double()).to(loss.dtype)
