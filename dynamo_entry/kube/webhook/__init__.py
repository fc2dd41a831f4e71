"""The webhooks: pure decisions on pods and checkpoints (``admission``), and the HTTPS server."""
