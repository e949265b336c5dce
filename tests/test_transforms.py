"""Every transform and mode is exact or a typed error, and `docs/transforms.md` says which."""

import pytest

from tests.transforms_table import ADJOINTS, PAGE, ROWS, outcome

PRINTED = PAGE.read_text().splitlines()


@pytest.mark.parametrize("row", ROWS)
def test_row_is_as_printed(row: str) -> None:
    found = [outcome(row, column) for column in ADJOINTS]
    assert not any(cell.startswith("WRONG") for cell in found), dict(zip(ADJOINTS, found, strict=True))
    assert f"| {row} | " + " | ".join(found) + " |" in PRINTED


def test_a_wrong_derivative_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment can fail: without its second chord step the Hessian is wrong."""
    from implayer import transformed

    monkeypatch.setattr(transformed, "_steps", lambda request, inverse, r: 1)
    assert outcome("`jacrev` of `jacrev`", "dense").startswith("WRONG")
