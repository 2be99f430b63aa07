"""What the report of `make gpu` says of a test."""

import pytest


@pytest.fixture(autouse=True)
def said(request: pytest.FixtureRequest, record_property) -> None:
    """The docstring of the test goes into pytest's report."""
    record_property("says", (request.function.__doc__ or "").strip())
