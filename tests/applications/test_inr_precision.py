"""Training steps with rounded products: what is rounded, what is not, and who may ask for it."""

import dataclasses

import pytest
import torch

from applications.inr import check, task
from applications.inr.config import EXACT, FieldConfig, ImageConfig
from applications.inr.fit import PictureTask
from applications.inr.models.build import build_model
from applications.inr.models.maps import AbstractMap
from applications.inr.models.precision import RoundedMap, single, tensor_float
from applications.inr.solid.config import SdfConfig
from applications.inr.solid.fit import DISTANCES
from applications.shared.errors import InputError
from applications.shared.pictures import Picture

FAMILIES = ("fourier-imfn", "gabor-imfn", "isiren", "fourier-mfn", "gabor-mfn", "siren-inj")
SETTINGS = torch.backends.cuda.matmul


def points(count=50, inputs=2):
    return torch.rand(count, inputs, dtype=torch.float32) * 2 - 1


def picture(size=16):
    axis = torch.linspace(0, 6, size)
    return Picture((0.5 + 0.4 * axis.sin()[:, None, None] * axis.cos()[None, :, None]).float(), "waves")


def config(**changes):
    return dataclasses.replace(ImageConfig(width=32, steps=60, size=16), **changes)


@pytest.mark.parametrize("model", FAMILIES)
def test_products_are_rounded_and_nothing_else(model):
    network = build_model(config(model=model), 2, 1, 256.0)
    exact = build_model(config(model=model), 2, 1, 256.0, torch.float64)
    exact.load_state_dict(network.state_dict())
    map, x, z = network.map, points(), points(50, 32)  # type: ignore[attr-defined]
    assert isinstance(map, AbstractMap)
    right = exact.map(x.double(), z.double())  # type: ignore[attr-defined]
    size = torch.linalg.vector_norm(right)
    error = torch.linalg.vector_norm(RoundedMap(map)(x, z) - right) / size
    assert 1e-4 < error < 1e-2  # phases of 256 radians, rounded to 8 bits, would be random
    assert torch.linalg.vector_norm(map(x, z) - right) / size < 1e-4


def test_gradients_are_those_of_rounded_numbers():
    map = build_model(config(), 2, 1, 8.0).map  # type: ignore[attr-defined]
    x, z = points(), points(50, 32)
    right, found = (torch.autograd.grad(f(x, z).square().sum(), list(map.parameters())) for f in (map, RoundedMap(map)))
    for a, b in zip(right, found, strict=True):
        assert b.dtype == torch.float32
        assert 0 < torch.linalg.vector_norm(a - b) <= 0.02 * torch.linalg.vector_norm(a)


@pytest.mark.parametrize("model", FAMILIES)
def test_training_loses_next_to_nothing(model):
    quality = {}
    for precision in ("float32", "bf16"):
        fit = PictureTask(config(model=model, precision=precision), picture(), torch.device("cpu"))
        for _ in range(60):
            quality[precision] = fit.step()["psnr"]
    assert quality["bf16"] != quality["float32"]
    assert abs(quality["bf16"] - quality["float32"]) < 0.5
    assert quality["float32"] > 15


@pytest.mark.parametrize("model", FAMILIES)
def test_drawing_has_single_precision(model):
    networks = [build_model(config(model=model, precision=precision), 2, 1, 8.0) for precision in ("float32", "bf16")]
    networks[1].load_state_dict(networks[0].state_dict())
    x = points(40)
    assert torch.equal(*(network(x) for network in networks))
    assert torch.equal(*(network.solved(x) for network in networks))
    assert not torch.equal(*(network.improved(x, network.solved(x)).value for network in networks))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "grid", "precision": "bf16"}, "families of the paper, not for grid"),
        ({"terms": EXACT, "precision": "bf16"}, "truncated gradients"),
    ],
)
def test_what_has_no_rounded_products_refuses_them(changes, said):
    with pytest.raises(InputError, match=said):
        check.check_field(FieldConfig(**changes))


def test_a_distance_takes_exact_gradients():
    with pytest.raises(InputError, match="a distance takes exact gradients"):
        DISTANCES.check(SdfConfig(precision="bf16"))


def test_tf32_is_a_mode_of_cuda_devices():
    with pytest.raises(InputError, match="mode of CUDA devices, not of cpu"):
        PictureTask(config(precision="tf32"), picture(), torch.device("cpu"))


def test_tf32_is_on_in_steps_but_for_phases_and_solves(monkeypatch):
    """On a CPU the setting has no effect, but it can be seen."""
    monkeypatch.setattr(task, "check_device", lambda config, device: None)
    fit = PictureTask(config(precision="tf32"), picture(), torch.device("cpu"))
    seen: dict[str, set[str]] = {"map": set(), "inject": set(), "solve": set(), "backward": set()}
    map = fit.model.map  # type: ignore[attr-defined]
    inject, solve = map.inject, fit.model._solve  # type: ignore[attr-defined]

    def watched_inject(x):
        found = inject(x)
        seen["map"].add(SETTINGS.fp32_precision)
        return found

    map.injections[0].register_forward_hook(lambda *_: seen["inject"].add(SETTINGS.fp32_precision))
    map.hidden[0].register_full_backward_hook(lambda *_: seen["backward"].add(SETTINGS.fp32_precision))
    monkeypatch.setattr(map, "inject", watched_inject)

    def watched_solve(*arguments, **options):
        with torch.no_grad():
            hook = map.hidden[0].register_forward_hook(lambda *_: seen["solve"].add(SETTINGS.fp32_precision))
            found = solve(*arguments, **options)
            hook.remove()
        return found

    monkeypatch.setattr(fit.model, "_solve", watched_solve)
    before = SETTINGS.fp32_precision
    fit.step()
    assert seen["solve"] == {"ieee"}
    for found in seen.values():  # the first step solves
        found.clear()
    fit.step()
    assert SETTINGS.fp32_precision == before
    assert seen["map"] == {"tf32"} and seen["inject"] == {"ieee"} and seen["backward"] == {"tf32"}


def test_settings_are_put_back_whatever_happens():
    before = SETTINGS.fp32_precision
    with pytest.raises(ValueError, match="stop"), tensor_float("tf32"):
        assert SETTINGS.fp32_precision == "tf32"
        with single():
            assert SETTINGS.fp32_precision == "ieee"
        assert SETTINGS.fp32_precision == "tf32"
        raise ValueError("stop")
    assert SETTINGS.fp32_precision == before
    with tensor_float("bf16"), single():
        assert SETTINGS.fp32_precision == before
