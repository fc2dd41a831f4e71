"""Makes the fixtures of conftest_shared those of this directory."""

from conftest_shared import containers, worker_image  # noqa: F401
