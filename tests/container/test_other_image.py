"""The same engine out of another image: what it would miss is refused by name, what it would not is told."""

import subprocess
import uuid

import pytest
from containers import CREATE, ENGINE, RESTORE, WORKER
from launcher import SETTINGS, SIGNAL

SITE = "/usr/local/lib/python3.13/dist-packages"

#: Maps the library of a Python package.
RUN = f"""
import ctypes, os, pathlib, signal
library = ctypes.CDLL("{SITE}/thing/libthing.so")
pathlib.Path(os.environ.get("DYNAMO_CHECKPOINT_SIGNAL_FILE", "/dev/null")).touch()
signal.pause()
"""

#: Name of an image → the version of that package, and what its library says.
IMAGES = {
    "first": ("1.0", "one"),
    "built-again": ("1.0", "one"),
    "another-library": ("1.0", "two"),
    "another-version": ("2.0", "one"),
}

#: As images/Containerfile does last, each build gets an id.
CONTAINERFILE = f"""
FROM {WORKER}
COPY site {SITE}
RUN cat /proc/sys/kernel/random/uuid >/opt/dynamo_entry/image-id
"""


def build(image, directory, version, text):
    package = directory / "site" / "thing"
    package.mkdir(parents=True)
    (directory / "site" / f"thing-{version}.dist-info").mkdir()
    (directory / "site" / f"thing-{version}.dist-info" / "METADATA").write_text(
        f"Name: thing\nVersion: {version}\n"
    )
    (directory / "thing.c").write_text(f'const char *told(void) {{ return "{text}"; }}')
    compiler = ("cc", "-shared", "-Wl,--build-id", "-o", package / "libthing.so", directory / "thing.c")
    subprocess.run(compiler, check=True)
    (directory / "Containerfile").write_text(CONTAINERFILE)
    isolation = ("--isolation=chroot",) if ENGINE == "podman" else ()
    file = ("-f", directory / "Containerfile", "--no-cache")
    subprocess.run(
        [ENGINE, "build", "-q", *isolation, *file, "-t", image, directory], check=True, timeout=120
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    tag = uuid.uuid4().hex[:8]
    names = {name: f"localhost/dynamo-entry/test-{name}:{tag}" for name in IMAGES}
    for name, image in names.items():
        build(image, tmp_path_factory.mktemp("image"), *IMAGES[name])
    yield names
    subprocess.run([ENGINE, "rmi", "-f", *names.values()], check=False, capture_output=True, timeout=60)


@pytest.fixture
def start(containers, images):
    """A restore from an archive that was made in the first image."""
    creator = containers.start(
        "python3", "-c", RUN, image=images["first"], options=CREATE, settings={**SETTINGS, **SIGNAL}
    )
    assert creator.exit_code() == 0, creator.output()
    return lambda name: containers.start(
        "python3", "-c", RUN, image=images[name], options=RESTORE, settings=SETTINGS
    )


def test_another_build_of_the_same_is_a_line_in_the_log(start):
    container = start("built-again")
    container.wait_for_event("Restored")
    assert container.event("host differs")["difference"].startswith("build of the image: ")
    container = start("first")
    container.wait_for_event("Restored")
    assert container.event("host differs") is None


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("another-library", "build id of " + SITE),
        ("another-version", f"Python packages in {SITE}: thing 1.0 at creation, thing 2.0 here"),
    ],
)
def test_an_image_with_other_software_is_refused_by_name(start, image, words):
    event = start(image).wait_for_event("Falling back to cold start")
    assert (event["reason"], event["phase"]) == ("ImageDiffers", "check")
    assert words in event["message"]
