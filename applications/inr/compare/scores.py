"""What networks for each signal are compared by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One figure of `metrics.json`, and one curve of its history.

    **Arguments**

    - `name`, `heading`, `digits`: of the figure, in the table.
    - `curve`, `title`, `unit`: of the history, in the picture.
    - `log`: whether the curve is drawn on a logarithmic scale.
    - `picture`: the file of a run that is set beside its `target.png`, if there is one.
    """

    name: str
    heading: str
    digits: int
    curve: str
    title: str
    unit: str
    log: bool = False
    picture: str | None = None


_PSNR = ("psnr", "PSNR dB", 2, "psnr", "PSNR of the training output", "dB")
SCORES = {
    "image": Score(*_PSNR, picture="reconstruction.png"),
    "audio": Score(*_PSNR),
    "video": Score(*_PSNR),
    "occupancy": Score("iou_near", "IoU near", 4, "iou", "IoU at the points of a step", "", picture="normals.png"),
    "sdf": Score(
        "chamfer_relative", "Chamfer / length", 5, "surface", "mean distance at the surface", "", log=True,
        picture="normals.png",
    ),
}  # fmt: skip
