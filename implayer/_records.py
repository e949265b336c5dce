"""Changed copies of frozen records, several of which are made in every call of a layer."""

from typing import Any, TypeVar

Record = TypeVar("Record")


def changed(record: Record, **fields: Any) -> Record:
    """`dataclasses.replace` at a fifth of its cost, for dataclasses without `__post_init__` and cached properties."""
    if not fields.keys() <= record.__dict__.keys():
        unknown = ", ".join(sorted(fields.keys() - record.__dict__.keys()))
        raise TypeError(f"a {type(record).__name__} has no field {unknown}.")
    twin = object.__new__(type(record))
    twin.__dict__.update(record.__dict__)
    twin.__dict__.update(fields)
    return twin
