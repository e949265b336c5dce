"""One body for all heads: a picture -> a latent vector -> a value for each point of the grid."""

import torch
from torch import Tensor, nn

from .config import Head, ShapesConfig
from .grid import BORDER, SIDE
from .pictures import SIZE

_CHANNELS = (16, 32, 64, 128)  # of the convolutions, each of which halves the picture


class ShapeNetwork(nn.Module):
    """A picture (batch, 64, 64) of values in [0, 1] -> (batch, 32, 32, 32): logits of voxels, or a field in voxels.

    The shape is a combination of learned fields: with hundreds of shapes, and on a CPU, that learned faster and better than
    transposed convolutions.
    """

    def __init__(self, head: Head, latent: int):
        super().__init__()
        self.head: Head = head
        layers: list[nn.Module] = []
        for before, after in zip((1, *_CHANNELS), _CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        numbers = (SIZE // 2 ** len(_CHANNELS)) ** 2 * _CHANNELS[-1]
        last = [nn.Linear(numbers, latent, bias=False), nn.BatchNorm1d(latent), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), *last)
        self.decoder = nn.Linear(latent, SIDE**3)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, or the field."""
        return self.decoder(self.encoder(pictures.unsqueeze(1))).unflatten(1, (SIDE,) * 3)

    def field(self, output: Tensor) -> Tensor:
        """The field, negative inside, whose surface the network means: for voxels 1/2 less the probability."""
        return BORDER - output.sigmoid() if self.head == "voxels" else output


def build_model(config: ShapesConfig) -> ShapeNetwork:
    """A network with initial weights of the seed; the same for all heads."""
    torch.manual_seed(config.seed)
    return ShapeNetwork(config.head, config.latent).float()
