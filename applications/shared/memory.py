"""Peak memory of a piece of work: growth of resident memory on a CPU, the allocator's peak on a GPU."""

import resource
import sys

import torch

MIB = 2**20


class PeakMemory:
    """Growth of the peak over the level when this was made.

    `pause` and `resume` leave out what is no training, such as the writing of a checkpoint.
    """

    def __init__(self, device: torch.device, earlier: float = 0.0):
        self._device, self._peak = device, earlier
        self._resettable = _reset()
        self._start = self._level(peak=False)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def pause(self) -> float:
        """Take the peak up to now, in MiB."""
        self._peak = max(self._peak, (self._level(peak=True) - self._start) / MIB)
        return self._peak

    def resume(self) -> None:
        """Forget what was used since `pause`."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _reset()

    def _level(self, *, peak: bool) -> float:
        if self._device.type == "cuda":
            used = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
            return float(used(self._device))
        return _status("VmHWM" if peak else "VmRSS") if self._resettable else _max_rss()


def _reset() -> bool:
    """Set the peak of this process back to its present level; only Linux can."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def _status(key: str) -> float:
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return float(lines[key].split()[0]) * 1024


def _max_rss() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
