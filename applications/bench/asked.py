"""What a benchmark is asked for: sizes, systems, repetitions and threads, read strictly."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from ..shared.errors import InputError


@dataclass(frozen=True)
class Asked:
    """The options that all benchmarks of systems share; each gives defaults of its own."""

    sizes: str
    """Samples x unknowns (x equations x inequalities for programs), separated by commas."""
    systems: str
    """Which systems, separated by commas."""
    reps: int = 7
    """Repetitions, of which the median is printed."""
    threads: int = 1
    """Threads of torch."""

    def shapes(self, form: str, option: str = "sizes") -> list[tuple[int, ...]]:
        """The sizes as numbers; `form` is one that is right, such as `64x8`. The first two numbers are at least 1."""
        found = []
        for size in getattr(self, option).split(","):
            parts = size.strip().split("x")
            numbers = tuple(int(part) for part in parts if part.isdecimal())
            if len(parts) != len(numbers) or len(numbers) != form.count("x") + 1 or min(numbers[:2]) < 1:
                raise InputError(f"`--{option}` holds `{size}`; expected sizes such as `{form}`, separated by commas.")
            found.append(numbers)
        return found

    def programs(self, form: str) -> list[tuple[int, ...]]:
        """The sizes of programs, none of which has more equations than unknowns."""
        found = self.shapes(form)
        for samples, n, m, p in found:
            if m > n:
                raise InputError(
                    f"`--sizes` holds `{samples}x{n}x{m}x{p}`: {m} equations for {n} unknowns; expected fewer."
                )
        return found

    def names(self, known: Iterable[str], option: str = "systems") -> list[str]:
        """The systems (or what the option names), each of them known."""
        known, asked = list(known), [name.strip() for name in getattr(self, option).split(",")]
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; perhaps `{near[0]}`" if near else ""
                raise InputError(f"`--{option}` holds `{name}`; expected some of {', '.join(known)}{hint}.")
        return asked

    def checked(self) -> "Asked":
        """The same once repetitions, threads and a limit of time are found to be positive."""
        for name in ("reps", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"`--{name}` is {getattr(self, name)}; expected at least 1.")
        if not getattr(self, "limit", 1) > 0:
            raise InputError(f"`--limit` is {getattr(self, 'limit', 1)}; expected a positive number.")
        return self
