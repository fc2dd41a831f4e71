"""botocore's signature by the server's clock: if the node's clock is wrong, the server tells the time."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.auth import AUTH_TYPE_MAPS, SIGV4_TIMESTAMP, S3SigV4Auth

#: The name under which botocore finds ``Signer``.
NAME = "s3v4-by-the-servers-clock"

#: Smaller differences do not matter to a server.
_SKEW_S = 60


class Clock:
    """How far this node's clock is off."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def learn(self, moment: float) -> bool:
        """Learn the server's time; returns whether it differs from what was known."""
        skew = moment - time.time()
        if not moment or abs(skew - self.skew_s) < _SKEW_S:
            return False
        self.skew_s = skew
        return True


#: The only instance: this node has one clock.
CLOCK = Clock()


class Signer(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, using the server's clock."""

    def _modify_request_before_signing(self, request: Any) -> None:
        moment = datetime.fromtimestamp(time.time(), timezone.utc) + timedelta(seconds=CLOCK.skew_s)
        request.context["timestamp"] = moment.strftime(SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)


AUTH_TYPE_MAPS[NAME] = Signer
