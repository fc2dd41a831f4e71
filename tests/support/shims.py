"""Libraries that stand between a container's programs and the kernel."""

import subprocess


def preloaded(directory, source, *arguments):
    """Options of a container with that library, by the loader's list, which no variable and no set of capabilities switches off."""
    library, listed = directory / f"{source.stem}.so", directory / f"{source.stem}.preload"
    subprocess.run(["cc", "-shared", "-fPIC", *arguments, "-o", library, source], check=True)
    listed.write_text("/etc/shim.so\n")
    return ("-v", f"{library}:/etc/shim.so:ro", "-v", f"{listed}:/etc/ld.so.preload:ro")
