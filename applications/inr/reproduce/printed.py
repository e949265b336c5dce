"""The printed figures of "(Implicit)^2", PSNR in dB: (network, size) -> mean +- deviation."""

_SIZES_1 = ("1L-256D", "1L-512D", "4L-256D")
_SIZES_2 = ("1L-1024D", "1L-2048D", "4L-1024D")


def _table(sizes: tuple[str, ...], rows: dict[str, str]) -> dict[tuple[str, str], str]:
    return {
        (model, size): cell for model, cells in rows.items() for size, cell in zip(sizes, cells.split(), strict=True)
    }


TABLE_1 = {
    "natural": _table(
        _SIZES_1,
        {
            "fourier-mfn": "23.27+-3.18 23.30+-3.05 24.57+-3.35",
            "fourier-imfn": "24.88 25.19+-3.64 24.52+-3.33",  # of the first one the deviation is misprinted
            "gabor-mfn": "24.16+-3.35 24.68+-3.46 24.65+-3.38",
            "gabor-imfn": "24.91+-3.41 25.42+-3.76 24.53+-3.33",
            "siren-inj": "22.88+-3.0 24.52+-3.28 24.10+-3.34",
            "isiren": "24.28+-3.37 24.92+-3.58 24.05+-3.39",
        },
    ),
    "text": _table(
        _SIZES_1,
        {
            "fourier-mfn": "24.64+-2.11 24.84+-2.10 26.67+-2.06",
            "fourier-imfn": "26.90+-2.14 27.19+-1.83 26.48+-2.04",
            "gabor-mfn": "27.19+-2.18 27.74+-2.13 27.57+-2.10",
            "gabor-imfn": "27.53+-2.18 28.07+-2.00 27.40+-2.10",
            "siren-inj": "24.54+-2.19 25.69+-2.18 26.21+-2.19",
            "isiren": "26.06+-2.18 26.81+-2.09 26.31+-2.20",
        },
    ),
}
"""Table 1: mean and deviation over 16 pictures."""

TABLE_2 = _table(
    _SIZES_2,
    {
        "fourier-mfn": "24.97+-1.08 26.9+-0.97 27.64+-0.90",
        "fourier-imfn": "25.85+-1.00 27.7+-0.90 28.03+-0.95",
        "gabor-mfn": "26.15+-1.02 28.18+-0.78 29.64+-0.81",
        "gabor-imfn": "26.45+-0.98 28.79+-0.77 29.20+-1.04",
        "siren-inj": "25.12+-0.96 26.04+-0.99 26.52+-0.86",
        "isiren": "26.03+-0.92 27.08+-0.93 27.12+-0.89",
    },
)
"""Table 2: mean and deviation over the 300 frames of `cat`."""
