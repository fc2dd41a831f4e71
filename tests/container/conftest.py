"""Makes the fixtures of conftest_shared those of this directory."""

from fixtures import containers, worker_image  # noqa: F401
