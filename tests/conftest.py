"""Of all tests."""

from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401
