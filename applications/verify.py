"""`implayer verify`: check a layer from a file or module of one's own."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from implayer.errors import VerificationError

from .shared.errors import InputError


def verify(
    layer: str, input: str | None, y0: str | None, residual: str | None, orders: int, profile: str, seed: int
) -> int:
    """Import what is named, check it, print the report. 0 where all properties hold, 1 with a counterexample."""
    from implayer.verify import check_layer

    module, name = _split(layer)
    subject = _get(module, name, layer)
    if (
        callable(subject)
        and not hasattr(subject, "solve")
        and not hasattr(subject, "parameters")
        and _takes_nothing(subject)
    ):
        subject = subject()
    x = _named(module, input, "x")
    if x is None:
        raise InputError(f"`{layer}`: no example input; define `x` beside the layer, or name one with `--input`.")
    if profile not in ("quick", "thorough"):
        raise InputError(f"`--profile` is {profile!r}; expected quick or thorough.")
    start, equation = _named(module, y0, "y0"), _named(module, residual, "F")
    try:
        report = check_layer(subject, x, y0=start, F=equation, orders=orders, profile=profile, seed=seed)  # type: ignore[arg-type]
    except VerificationError as error:
        print(error)
        return 1
    print(report)
    return 0


def _split(target: str) -> tuple[Any, str]:
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise InputError(f"`{target}` names no layer; expected package.module:name or file.py:name.")
    return _module(where), name


def _module(where: str) -> Any:
    path = Path(where)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"`{where}` does not exist; expected a Python file.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a module of one's own lies where the program is called
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and where.startswith(error.name):
            raise InputError(
                f"there is no module `{where}` here; expected package.module:name or file.py:name."
            ) from error
        raise


def _get(module: Any, name: str, target: str) -> Any:
    if not hasattr(module, name):
        known = ", ".join(f"`{key}`" for key in vars(module) if not key.startswith("_"))
        raise InputError(f"`{target}`: there is no `{name}` in that module; it has {known}.")
    return getattr(module, name)


def _named(module: Any, target: str | None, default: str) -> Any:
    """What the option names, or what has the usual name beside the layer, or None."""
    if target is None:
        return getattr(module, default, None)
    if ":" in target:
        other, name = _split(target)
        return _get(other, name, target)
    return _get(module, target, target)


def _takes_nothing(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount == 0
