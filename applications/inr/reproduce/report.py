"""What an experiment says: figures of each network beside the printed ones, and which claims of the paper hold."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Found = Mapping[str, Sequence[float]]  # the scores of each network, one for each signal and seed, in the same order


@dataclass(frozen=True)
class Claim:
    """`better` scores more than `worse` by at least `margin`; with `worse` empty, more than all the others of `among`."""

    text: str
    better: str
    worse: str
    margin: float = 0.0


@dataclass(frozen=True)
class Judged:
    """A claim beside what was found."""

    text: str
    holds: bool
    difference: float  # mean of the paired differences
    deviation: float  # standard error of that mean; NaN for a single pair
    wins: int  # pairs in which `better` scores more
    pairs: int


def judge(claim: Claim, found: Found) -> Judged:
    """Whether the mean paired difference reaches the margin."""
    apart = [one - other for one, other in zip(found[claim.better], found[claim.worse], strict=True)]
    mean = statistics.mean(apart)
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return Judged(claim.text, mean > claim.margin, mean, error, sum(each > 0 for each in apart), len(apart))


def show(
    title: str,
    found: Found,
    judged: Sequence[Judged],
    *,
    printed: Mapping[str, str],
    further: Mapping[str, Mapping[str, float]],
) -> None:
    """Print the table and the claims.

    **Arguments**: `printed`, what the paper says of a network; `further`, columns besides the score.
    """
    table = Table(title=title)
    table.add_column("network")
    for heading in ("PSNR dB", "paper", *further):
        table.add_column(heading, justify="right")
    for name, scores in found.items():
        spread = f" +- {statistics.pstdev(scores):.2f}" if len(scores) > 1 else ""
        cells = [f"{column[name]:.3g}" for column in further.values()]
        table.add_row(name, f"{statistics.mean(scores):.2f}{spread}", printed.get(name, ""), *cells)
    shown = Console(highlight=False, width=120)
    shown.print(table)
    for claim in judged:
        pairs = f", in {claim.wins} of {claim.pairs}" if claim.pairs > 1 else ""
        shown.print(f"{'holds     ' if claim.holds else 'DOES NOT  '}{claim.text}: {claim.difference:+.2f} dB{pairs}")


def as_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The same for a file, which knows no NaN."""
    return [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in vars(each).items()}
        for each in judged
    ]
