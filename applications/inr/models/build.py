"""From a configuration to the network that it names."""

import torch
from torch import nn
from torch.nn.utils import parametrizations

import implayer

from ..config import FieldConfig
from .bacon import Bacon
from .finer import Finer
from .fourier import fourier_map
from .gabor import gabor_map
from .grid import FeatureGrid, GridNetwork
from .maps import AbstractMap
from .networks import AbstractNetwork, ExplicitNetwork, ImplicitNetwork
from .siren import Siren, injected_sine_map
from .wire import Wire


def build_model(
    config: FieldConfig, inputs: int, outputs: int, scale: float, dtype: torch.dtype = torch.float32
) -> AbstractNetwork:
    """The network that the configuration names, with the initial weights of its seed.

    **Arguments**

    - `inputs`: coordinates: 1 for sound, 2 for a picture, 3 for a video or a shape.
    - `outputs`: values at a point.
    - `scale`: of the input frequencies, unless the configuration has one: what fits the density of the samples, so half as
      many as there are samples along [-1, 1].
    """
    torch.manual_seed(config.seed)
    scale = scale if config.scale is None else config.scale
    name, sizes = config.model, (inputs, config.width, config.layers)
    if name == "siren":
        gain = config.siren_gain if config.siren_init == "scaled" else 1.0
        return Siren(*sizes, outputs, omega=config.omega, gain=gain, dtype=dtype)
    if name == "finer":
        return Finer(*sizes, outputs, omega=config.omega, first_bias=config.finer_bias, dtype=dtype)
    if name == "wire":
        return Wire(*sizes, outputs, shape=(config.wire_omega, config.wire_sigma), dtype=dtype)
    if name == "bacon":
        return Bacon(*sizes, outputs, scale=scale, dtype=dtype)
    if name == "grid":
        features = FeatureGrid(
            inputs, config.grid_levels, config.grid_features, 2**config.grid_table, round(2 * scale), dtype
        )
        return GridNetwork(inputs, config.grid_width, config.layers, outputs, features, dtype)
    map = _map(config, inputs, scale, dtype)
    _bound(map, config)
    if config.implicit:
        return ImplicitNetwork(map, inputs, outputs, config)
    return ExplicitNetwork(map, outputs, config)


def _map(config: FieldConfig, inputs: int, scale: float, dtype: torch.dtype) -> AbstractMap:
    sizes = (inputs, config.width, config.layers, scale)
    if config.model in ("fourier-imfn", "fourier-mfn"):
        return fourier_map(*sizes, dtype)
    if config.model in ("gabor-imfn", "gabor-mfn"):
        entry = config.gabor_alpha if config.gabor_entry_alpha is None else config.gabor_entry_alpha
        return gabor_map(*sizes, (entry, config.gabor_alpha), dtype)
    return injected_sine_map(*sizes, dtype)


def _bound(map: AbstractMap, config: FieldConfig) -> None:
    if not (config.implicit or config.norm_explicit):
        return
    for linear in map.hidden:
        assert isinstance(linear, nn.Linear)
        if config.norm == "spectral":
            implayer.spectral_norm(linear, config.norm_target, config.power_iterations)
        elif config.norm == "weight":
            parametrizations.weight_norm(linear)
