"""The names of secrets that an archive will hold because they are in an environment or a command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from dynamo_entry.linux import proc

_SECRET = re.compile(
    r"(.+_)?(ACCESS_KEY|API_KEY|SECRET_KEY|PRIVATE_KEY|SECRET|TOKEN)|.*PASSWORD", flags=re.IGNORECASE
)


def in_environments(pids: Iterable[int]) -> list[str]:
    """Names of variables that look like secrets, and are not empty, in the environments that processes were started with."""
    names = set()
    for pid in pids:
        try:
            variables = proc.environment(pid)
        except OSError:
            continue  # it ended
        for name, value in variables:
            if value and is_secret(name.decode("utf-8", "replace")):
                names.add(name.decode("utf-8", "replace"))
    return sorted(names)


def in_command(argv: Sequence[str]) -> list[str]:
    """Options that appear to take a secret, and have a value: ``--api-key VALUE``, ``--api-key=VALUE``, ``API_KEY=VALUE``."""
    found = []
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        name, sign, value = argument.partition("=")
        if not sign:
            value = "" if not name.startswith("-") or following.startswith("-") else following
        if value and not value.isdecimal() and is_secret(name.lstrip("-").replace("-", "_")):
            found.append(name)
    return sorted(set(found))


def is_secret(name: str) -> bool:
    """Whether a variable of that name most likely holds a secret."""
    return _SECRET.fullmatch(name) is not None
