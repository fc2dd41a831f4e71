"""Programs of the launcher's own are not looked for where the engine may have put them."""

import pytest

from dynamo_entry.worker.__main__ import absolute


@pytest.mark.parametrize(
    ("path", "searched"),
    [("/usr/sbin:/usr/bin", "/usr/sbin:/usr/bin"), (":/usr/bin:.:bin:", "/usr/bin"), ("", "")],
)
def test_relative_directories_are_left_out(path, searched):
    assert absolute(path) == searched
