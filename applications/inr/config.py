"""The configuration of a fit: what every signal shares, and what pictures add. Every field has unit and origin."""

from dataclasses import dataclass
from typing import Any, Literal

ModelName = Literal[
    "fourier-imfn", "gabor-imfn", "isiren", "fourier-mfn", "gabor-mfn", "siren-inj", "siren", "finer", "wire", "bacon", "grid"
]  # fmt: skip
Precision = Literal["float32", "tf32", "bf16"]
IMPLICIT: tuple[ModelName, ...] = ("fourier-imfn", "gabor-imfn", "isiren")
_USUAL_DEPTH: dict[str, int] = {"siren": 3, "finer": 3, "wire": 2, "bacon": 4, "grid": 2}  # of their authors; others 1
_USUAL_RATE: dict[str, float] = {"siren": 1e-4, "finer": 5e-4, "wire": 2e-3, "bacon": 1e-3, "grid": 5e-3}  # others 1e-3
EXACT = -1  # `terms` for the exact implicit gradient


@dataclass(frozen=True)
class FieldConfig:
    """What decides the numbers of a fit. "Paper" is "(Implicit)^2"; "authors" is their programs where it is silent."""

    model: ModelName = "fourier-imfn"
    """The implicit ones are fourier-imfn, gabor-imfn (equation 8) and isiren (7); fourier-mfn, gabor-mfn and siren-inj are
    their explicit likes; siren, finer, wire, bacon and grid are what others use."""
    width: int = 256
    """D, entries of the hidden state (paper: 256 or 512)."""
    depth: int | None = None
    """L, hidden maps (paper: 1 for implicit models, 4 for explicit ones); None is what is usual for the model."""
    steps: int = 200
    """Optimiser steps (paper: 5000 for a picture)."""
    batch: int = 0
    """Points of the signal in a step, drawn without repetition until all had their turn; 0 is all of them."""
    learning_rate: float | None = None
    """Of Adam; None is what is usual for the model: 1e-3 for the families of the paper (authors)."""
    rate_factor: float = 1.0
    """Of the learning rate that is usual for the model, where none is given: mini-batches with a decay bear more."""
    decay: float = 1.0
    """The learning rate at the last step, as a part of that at the first (authors: 1)."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate goes there (authors: linear)."""
    scale: float | None = None
    """Of the input frequencies; None is what fits the density of the samples: 256 n / 512 for a picture n pixels long."""
    norm: Literal["none", "spectral", "weight", "guard"] = "none"
    """Bound on the hidden maps: spectral (paper), weight normalisation (paper's weaker one), or guard, which bounds the
    measured iteration instead of the weights, and only where solves lengthen."""
    norm_target: float = 0.97
    """The bound on the spectral norm (authors; the text says 1)."""
    norm_explicit: bool = True
    """The same bound for the explicit models of the paper's families (authors, for pictures)."""
    power_iterations: int = 1
    """For the bound, per step (authors: 5)."""
    guard_rate: float = 0.8
    """The contraction of the iteration above which guard tightens: solves to 1e-3 take 31 steps there."""
    terms: int = 1
    """T of the truncated gradient, equation (14); 0 is Jacobian-free (paper: 1), -1 is the exact gradient."""
    reuse: bool = True
    """Start each step from the last fixed point and do one step of the map (paper); otherwise solve at every step."""
    half_states: bool = True
    """Keep fixed points between steps in half precision: half the memory; the next step contracts the rounding."""
    precision: Precision = "float32"
    """Of the products with the hidden maps of the paper's families in training steps: tf32 (CUDA devices alone) rounds what
    is multiplied to 11 bits, bf16 to 8. Solves, drawings and weights have single precision."""
    compile: bool = False
    """Fuse what training steps of the paper's families evaluate between their products, by torch.compile: seconds more at
    the start, and a quarter less memory with all points at once; on a CPU it gains no time but for explicit networks."""
    cache_mb: int = 4096
    """Memory for fixed points; those that find no room are solved for from zero."""
    tolerance: float = 1e-3
    """Of full solves, relative to the residual at their start (authors: 1e-3)."""
    max_solve_steps: int = 100
    """Of full solves (authors: 100)."""
    chunk: int | None = None
    """Points that are worked on at a time; the gradient is that of all points of a step. None is what suits the caches of
    the device, 0 all at once (authors)."""
    seed: int = 0
    """Of the initial weights and of what is drawn."""
    gabor_alpha: float = 3.0
    """Shape of the Gamma distribution of Gabor widths, times L + 1 (authors: 3)."""
    gabor_entry_alpha: float | None = None
    """The same for the entry filter; None is as the others. The authors' programs give it 6 whatever they are asked for."""
    siren_init: Literal["original", "scaled"] = "original"
    """Initial weights of siren: of its authors, or all but the last layer's larger by `siren_gain`."""
    siren_gain: float = 2.37
    """See `siren_init` (Yeom et al., 2024)."""
    omega: float = 30.0
    """Of the sines of siren and finer (their authors)."""
    finer_bias: float = 1.0
    """Largest first bias of finer: more reaches higher frequencies."""
    wire_omega: float = 20.0
    """Frequency of the wavelets of wire (its authors, for pictures)."""
    wire_sigma: float = 10.0
    """Inverse width of the wavelets of wire (its authors, for pictures)."""
    grid_levels: int = 12
    """Resolutions of grid."""
    grid_features: int = 2
    """Features at each node of grid."""
    grid_table: int = 15
    """Nodes that one resolution of grid keeps, as a power of two; finer ones share nodes by a hash."""
    grid_width: int = 64
    """Width of the network behind grid."""

    @property
    def implicit(self) -> bool:
        """Whether the hidden state is a fixed point."""
        return self.model in IMPLICIT

    @property
    def of_the_paper(self) -> bool:
        """Whether the model is of one of the paper's families, explicit or implicit."""
        return self.model in (*IMPLICIT, "fourier-mfn", "gabor-mfn", "siren-inj")

    @property
    def layers(self) -> int:
        """L: as asked for, or as is usual for the model."""
        return _USUAL_DEPTH.get(self.model, 1) if self.depth is None else self.depth

    @property
    def rate(self) -> float:
        """The first learning rate: as asked for, or as is usual for the model."""
        usual = _USUAL_RATE.get(self.model, 1e-3) * self.rate_factor
        return usual if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class ImageConfig(FieldConfig):
    """What decides the numbers of a picture fit."""

    size: int = 256
    """Longer side in pixels; larger pictures are shrunk (paper: 512)."""
    samples: Literal["all", "even", "random", "mask", "blocks"] = "all"
    """What is learned from, and what is tested on. all: all pixels. even: those of even rows and columns, tested on odd ones
    (generalisation of the paper). random: --keep of them, tested on the others. mask: what --mask FILE shows white, tested
    on the black. blocks: means of squares of --block pixels, tested on all pixels (super-resolution)."""
    keep: float = 0.25
    """Part of the pixels that is learned from, with --samples random."""
    block: int = 4
    """Pixels on the side of a square, with --samples blocks."""


AUTHORS: dict[str, Any] = {
    "norm": "spectral",
    "power_iterations": 5,
    "gabor_entry_alpha": 6.0,
    "half_states": False,
    "chunk": 0,
}
"""The recipe of the authors for pictures, with its oddities; for sound and video without `norm`."""
TUNED: dict[str, Any] = {"norm": "guard", "batch": 8192, "rate_factor": 5.0, "decay": 0.02, "schedule": "cosine"}
"""What was found best in equal time."""

SMOKE = ImageConfig(width=32, size=32, steps=20)
PAPER = ImageConfig(size=512, steps=5000, **AUTHORS)
TUNED_IMAGE = ImageConfig(size=512, steps=2000, **TUNED)
PRESETS = {"default": ImageConfig(), "smoke": SMOKE, "paper": PAPER, "tuned": TUNED_IMAGE}
