"""A directory as tests compare it before and after."""

import os
import stat


def entries(root):
    """Path, lstat, and content or target of everything below ``root``, itself included."""
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files, "."):
            path = os.path.normpath(os.path.join(directory, name))
            status = os.lstat(path)
            content = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            yield path, status, content
