"""`implayer verify TARGET`: check a layer of a module or file from the shell."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import VerificationError
from .check_layer import check_layer

_HELP = "expected `package.module:layer` or `path/to/file.py:layer`"


class UsageError(Exception):
    """A target that cannot be used; the message is one sentence for the shell."""


def main(
    target: str,
    *,
    x: str | None = None,
    orders: int = 2,
    profile: str = "quick",
    seed: int = 0,
    out: Any = None,
) -> int:
    """Check the layer that `target` names, and print the report.

    **Arguments**

    - `target`: `package.module:name` or `path/to/file.py:name`. The object is a layer; or a function without arguments
      that returns a layer, or (layer, x), or (layer, x, F).
    - `x`: where the example input (or Hypothesis strategy) is: a name in the same module, or a target of its own.
      Without it, the x that the function returned, or else the attribute `x` of the module. A function without
      arguments is called.
    - `orders`, `profile`, `seed`: as for `check_layer`.
    - `out`: a text stream to print to; standard output by default, and wrong usage goes to standard error then.

    **Returns** the exit code: 0 all properties hold, 1 one failed (its counterexample is printed), 2 wrong usage.
    """
    errors = sys.stderr if out is None else out
    out = sys.stdout if out is None else out
    try:
        layer, example, F = _resolve(target, x)
        report = check_layer(layer, example, F=F, orders=orders, profile=profile, seed=seed)
    except UsageError as error:
        print(f"implayer verify: {error}", file=errors)
        return 2
    except VerificationError as error:
        print(error, file=out)
        return 1
    except Exception as error:
        print(f"implayer verify: `{target}` cannot be evaluated: {type(error).__name__}: {error}", file=errors)
        return 2
    print(report, file=out)
    return 0


def _resolve(target: str, x: str | None) -> tuple[Any, Any, Any]:
    module, name = _load(target)
    thing, example, F = _attribute(module, name), None, None
    if isinstance(thing, type):
        raise UsageError(
            f"`{name}` is a class; make an object of it, for example `layer = {name}(...)`, and name that."
        )
    if not callable(thing):
        raise UsageError(f"`{name}` is {type(thing).__name__}; expected a layer, or a function that returns one.")
    if _takes_nothing(thing):
        thing = thing()
        if isinstance(thing, tuple):
            thing, example, F = (*thing, None, None)[:3]
        if not callable(thing):
            raise UsageError(
                f"`{name}()` returned {type(thing).__name__}; expected a layer, (layer, x) or (layer, x, F)."
            )
    if x is not None:
        example = _example(module, x)
    elif example is None:
        example = _example(module, "x")
    return thing, example, F


def _load(target: str) -> tuple[ModuleType, str]:
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name.isidentifier():
        raise UsageError(f"`{target}` names no layer; {_HELP}.")
    try:
        return (_from_file(Path(place)) if place.endswith(".py") else _from_package(place)), name
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"importing `{place}` failed: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file `{path}`; {_HELP}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _from_package(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module `{error.name}`; {_HELP}.") from error


def _attribute(module: ModuleType, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    near = difflib.get_close_matches(name, [n for n in vars(module) if not n.startswith("_")], n=1)
    hint = f"; did you mean `{near[0]}`?" if near else "."
    raise UsageError(f"`{module.__name__}` has no attribute `{name}`{hint}")


def _example(module: ModuleType, name: str) -> Any:
    if ":" in name:
        module, name = _load(name)
    if name == "x" and not hasattr(module, "x"):
        raise UsageError(
            f"no example input: give `{module.__name__}` an attribute `x` (a nest of tensors or a strategy), "
            f"let the function return (layer, x), or name one with `--x`."
        )
    value = _attribute(module, name)
    return value() if callable(value) and not isinstance(value, torch.Tensor) and _takes_nothing(value) else value


def _takes_nothing(thing: Any) -> bool:
    """Whether something is a plain function that can be called without arguments."""
    if not inspect.isfunction(thing):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(thing).parameters.values()
    return all(p.default is not inspect.Parameter.empty or p.kind in kinds for p in parameters)
