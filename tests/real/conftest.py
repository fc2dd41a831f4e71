"""Containers of the image with vLLM and ai-dynamo, which ``scripts/test real`` builds."""

from fixtures import containers, worker_image  # noqa: F401
