"""What the user sees while a run goes on: a bar on a terminal, plain lines elsewhere, nothing with --quiet."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 5.0  # between plain lines


class Reporter:
    """Progress of `total` steps; use as a context manager."""

    def __init__(self, total: int, *, done: int = 0, quiet: bool = False):
        self.total, self.done, self.quiet = total, done, quiet
        self.console = Console(stderr=False, highlight=False)
        self._bar: Progress | None = None
        self._last = time.monotonic()

    def __enter__(self) -> "Reporter":
        if not self.quiet and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=self.console,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("fit", total=self.total, completed=self.done, text="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, figures: str) -> None:
        """`step` steps are done; `figures` says how well."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=figures)
        elif time.monotonic() - self._last >= _LINE_SECONDS or step == self.total:
            self._last = time.monotonic()
            print(f"step {step}/{self.total}  {figures}", flush=True)

    def note(self, text: str) -> None:
        """A line that stays; warnings are shown even with --quiet."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
