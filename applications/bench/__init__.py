"""Programs that measure ours beside others: `implayer bench NAME`. Each has `main(arguments) -> exit code`."""

import difflib
import importlib

from ..shared.errors import InputError

NAMES = ("core", "cvxpy", "deq", "eigen", "inr", "inr-image", "level-set", "qp")
MODULES = {"cvxpy": "convex"}  # under its own name it would hide the package


def run_bench(name: str, arguments: list[str]) -> int:
    """Run the program of that name, which is imported only now."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; perhaps `{near[0]}`" if near else ""
        raise InputError(f"there is no benchmark `{name}`; expected one of {', '.join(NAMES)}{hint}.")
    return importlib.import_module(f".{MODULES.get(name, name).replace('-', '_')}", __package__).main(arguments) or 0
