"""What a store is reached with, beside its location."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NONE: Mapping[str, Any] = MappingProxyType({})


class Access(NamedTuple):
    """Passed as an argument: nothing of it is ever put into the environment of the process.

    ``variables`` are those of a mounted secret, which take precedence over the environment's. ``options`` are for the
    library of an fsspec backend, as they are.
    """

    ca_file: str = ""
    variables: Mapping[str, str] = _NONE
    options: Mapping[str, Any] = _NONE

    @property
    def environ(self) -> dict[str, str]:
        """The environment with the secret's variables."""
        return {**os.environ, **self.variables}


NOTHING = Access()
