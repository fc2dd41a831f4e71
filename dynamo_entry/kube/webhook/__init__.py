"""The webhooks: a pod made to restore or left as it is (``admission``, pure), and the HTTPS server."""
