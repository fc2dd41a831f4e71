"""Makes the fixtures of tests/support/fixtures.py those of this directory."""

from fixtures import containers, worker_image  # noqa: F401
