"""Figure 3 of "(Implicit)^2": the length of solves that start from the last fixed point, over the training."""

from dataclasses import replace

import torch
from torch import Tensor

from ...shared.devices import set_threads
from ...shared.errors import InputError
from ...shared.figures import Line, Panel, draw_lines
from ...shared.files import write_json
from ...shared.options import require_least
from ...shared.pictures import camera, shrink
from ...shared.run_folder import versions
from ..config import PAPER, ImageConfig
from ..fit import PictureTask
from ..models.networks import ImplicitNetwork
from ..task import Batch
from .commands import Figure3

_TOLERANCE = 0.01  # of the paper's text, relative change over all pixels (authors)
_AFTER = 100  # steps, from which on the claim holds
_SHARE = 0.9
_MOST = 100


class _Measured(PictureTask):
    """A task that counts, before each step, the evaluations of a solve from the last fixed point and of one from zero."""

    def __init__(self, config: ImageConfig, size: int):
        super().__init__(config, shrink(camera(), size, "camera"), torch.device("cpu"))
        self.evaluations: dict[str, list[int]] = {"from the last fixed point": [], "from zero": []}

    def losses(self, batch: Batch, z: Tensor | None) -> tuple[Tensor, dict[str, float], Tensor | None]:
        """Count, then as always."""
        zero = batch.x.new_zeros(len(batch.x), self.model.width)
        for name, start in (("from the last fixed point", zero if z is None else z), ("from zero", zero)):
            self.evaluations[name].append(self._length(batch.x, start))
        return super().losses(batch, z)

    @torch.no_grad()
    def _length(self, x: Tensor, z: Tensor) -> int:
        assert isinstance(self.model, ImplicitNetwork)
        injected = self.model.map.inject(x)
        for count in range(1, _MOST + 1):
            new = self.model.map(injected, z)
            if float((new - z).norm()) <= _TOLERANCE * float(new.norm()):
                return count
            z = new
        return _MOST


def solves(command: Figure3) -> None:
    """Train with fixed-point reuse, and count."""
    require_least(command, {"seeds": 1})
    size = command.size or (512 if command.full else 128)
    steps = command.steps or (1000 if command.full else 300)
    width = command.width or (256 if command.full else 128)
    if min(size, steps, width) < 2:
        raise InputError("`--size`, `--steps` and `--width` must be at least 2.")
    set_threads(command.threads)
    out = command.folder("impsq-fig3")
    config = replace(PAPER, model="fourier-imfn", width=width, size=size, steps=steps, seed=command.seed, chunk=0)
    task = _Measured(config, size)
    for _ in range(steps):
        task.step()
    warm = task.evaluations["from the last fixed point"][_AFTER:]
    share = sum(count == 1 for count in warm) / max(len(warm), 1)
    x = list(range(1, steps + 1))
    lines = [Line(name, x, counts, group=name, dashed=True) for name, counts in task.evaluations.items()]
    draw_lines(out / "impsq-fig3.png", [Panel(f"evaluations of F to {_TOLERANCE:g}", "step", "evaluations", lines)])
    write_json(
        out / "impsq-fig3.json",
        {
            "evaluations": task.evaluations,
            "share_of_one": share,
            "after": _AFTER,
            "claim": _SHARE,
            "versions": versions(),
        },
    )
    verdict = "holds" if share > _SHARE else "DOES NOT hold"
    print(
        f"after step {_AFTER} {share:.1%} of the solves take one evaluation (paper: most; here more than {_SHARE:.0%} are "
        f"asked for: {verdict}); from zero they take {sum(task.evaluations['from zero']) / steps:.1f}\n{out / 'impsq-fig3.png'}"
    )
