"""Can this gradient be trusted? Properties checked on generated inputs, and a certificate for a given one.

`check_layer` and `property_test` check a layer, `check_solver` a forward solver; `certify` bounds the error of a
gradient at one input; `strategies` draws inputs, and `catalogue` holds problems with exact answers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .certify import Certificate, certify
from .check_layer import check_layer, property_test
from .check_solver import check_solver
from .report import PropertyResult, Report

if TYPE_CHECKING:
    from . import catalogue, strategies

__all__ = [
    "Certificate",
    "PropertyResult",
    "Report",
    "catalogue",
    "certify",
    "check_layer",
    "check_solver",
    "property_test",
    "strategies",
]

_LAZY = ("catalogue", "strategies")  # `strategies` imports Hypothesis, which `import implayer` must not


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
