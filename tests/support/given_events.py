"""PID 1's source of events, as a list that a test gives."""

import time


class GivenEvents:
    """Hands them out one by one; ``waited`` are the seconds that each would have been waited for at most."""

    def __init__(self, *events):
        self.events = list(events)
        self.waited = []

    def listen(self, _descriptor): ...

    def stop_listening(self): ...

    def next(self, deadline):
        self.waited.append(deadline - time.monotonic())
        return self.events.pop(0)
