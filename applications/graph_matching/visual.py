"""What a picture looks like around its landmarks: a small convolutional network, or VGG-16 with weights of the user."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..shared.checkpoint import load_tensors
from ..shared.errors import InputError

_VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512)  # channels, 0 for pooling; up to relu5_1
_TAKEN = (11, 14)  # of these: relu4_2 and relu5_1, the two depths of Zanfir and Sminchisescu
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def at_points(maps: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, channels) a feature map (channels, h, w) of a picture of `size` (height, width), bilinearly at points (n, 2)."""
    extent = torch.tensor([size[1], size[0]], dtype=points.dtype)
    grid = (2 * (points + 0.5) / extent - 1).to(maps.dtype)
    found = nn.functional.grid_sample(maps[None], grid[None, None], padding_mode="border", align_corners=False)
    return nn.functional.normalize(found[0, :, 0].mT, dim=-1)


class SmallNetwork(nn.Module):
    """Three convolutions with two poolings, on grey values."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        single = torch.float32
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, dtype=single), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2, dtype=single), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, channels, 5, padding=2, dtype=single),
        )  # fmt: skip

    def forward(self, picture: Tensor, points: Tensor) -> Tensor:
        """(n, channels) for a grey picture (height, width)."""
        grey = picture.float()
        grey = (grey - grey.mean()) / (grey.std() + 1e-6)
        return at_points(self.layers(grey[None, None])[0], points, (picture.shape[0], picture.shape[1])).double()


class VGG(nn.Module):
    """VGG-16 up to relu5_1 with fixed weights; features of relu4_2 and relu5_1."""

    channels = 1024

    def __init__(self, path: Path):
        super().__init__()
        self.layers, before = nn.ModuleList(), 3
        for width in _VGG:
            self.layers.append(
                nn.Conv2d(before, width, 3, padding=1, dtype=torch.float32) if width else nn.MaxPool2d(2)
            )
            before = width or before
        self._load(path)
        self.requires_grad_(False)

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"`--vgg {path}` is no file; expected the weights of VGG-16 as safetensors.")
        tensors, _ = load_tensors(path)
        index = 0  # of torchvision's list, where every convolution has its ReLU beside it
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                for part in ("weight", "bias"):
                    name, own = f"features.{index}.{part}", getattr(layer, part)
                    given = tensors.get(name)
                    if given is None or given.shape != own.shape:
                        found = "nothing" if given is None else f"shape {tuple(given.shape)}"
                        raise InputError(f"`--vgg {path}` has {found} as {name!r}; expected {tuple(own.shape)}.")
                    own.data.copy_(given)
                index += 1
            index += 1

    def forward(self, picture: Tensor, points: Tensor) -> Tensor:
        """(n, 1024) for a picture (height, width) or (height, width, 3)."""
        colour = picture.float()
        colour = colour.unsqueeze(-1).expand(-1, -1, 3) if colour.ndim == 2 else colour
        x = ((colour - torch.tensor(_MEAN)) / torch.tensor(_DEVIATION)).permute(2, 0, 1)[None]
        found = []
        for place, layer in enumerate(self.layers):
            x = layer(x).relu() if isinstance(layer, nn.Conv2d) else layer(x)
            if place in _TAKEN:
                found.append(at_points(x[0], points, (picture.shape[0], picture.shape[1])))
        return torch.cat(found, -1).double()
