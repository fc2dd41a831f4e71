"""In CI nothing of the core is skipped: what is missing there fails, except what no installation brings."""

import os

import pytest

#: Reasons that CI takes: what the kernel, or the disk below /tmp, does not have.
ALLOWED = (
    "not on this machine",
    "no asynchronous I/O here",
    "this kernel makes no rings",
    "pytest's temporary files are not on ext4",
)


def _judge(report):
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _judge((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _judge((yield))
