"""Settings: every variable is read, every mistake is named, all at once."""

import re

import pytest

from dynamo_entry.errors import SettingsError
from dynamo_entry.settings import PREFIX, VARIABLES, Settings, from_environment, unknown_variables


def settings(**variables: str) -> Settings:
    return from_environment({PREFIX + name: value for name, value in variables.items()})


def test_every_variable_has_a_field_and_the_reverse():
    assert {name.lower() for name in VARIABLES} == set(Settings._fields)


def test_the_help_names_every_value_of_a_choice():
    """People set variables by the help and docs/reference.md alone."""
    choices = {}
    for name, variable in VARIABLES.items():
        try:
            variable.parse("no such value")
        except ValueError as error:
            if found := re.fullmatch(r"expected one of (.+)", str(error)):
                choices[name] = found[1].split(", ")
    unnamed = {
        (name, word)
        for name, words in choices.items()
        for word in words
        if not re.search(rf"(?<![\w-]){word}(?![\w-])", VARIABLES[name].help)
    }
    assert len(choices) == 10
    assert unnamed == set()


def test_an_empty_environment_is_all_defaults():
    assert settings() == Settings()


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        settings(MODE="fast", STOP_GRACE="soon", PATH="relative.tar", FORCE="perhaps", CONCURRENCY="-1")
    for name in ("MODE", "STOP_GRACE", "PATH", "FORCE", "CONCURRENCY"):
        assert PREFIX + name in str(caught.value)
    assert caught.value.exit_code == 170


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1m", ""])
def test_times_are_finite_seconds(value):
    if value:
        with pytest.raises(SettingsError):
            settings(WAIT=value)
    else:
        assert settings(WAIT=value).wait == 0


def test_times_beyond_a_month_are_a_month():
    """Sockets, poll(2) and the driver take no such numbers."""
    assert settings(GPU_TIMEOUT="99999999999").gpu_timeout == 30 * 24 * 3600


def test_a_stall_timeout_of_0_means_never():
    assert settings(STALL_TIMEOUT="0").stall_timeout == float("inf")
    assert settings(SIGNAL_TIMEOUT="0").signal_timeout == float("inf")
    assert settings(DUMP_TIMEOUT="0").dump_timeout == 0, "the others mean: no such limit"


@pytest.mark.parametrize(
    ("storage_type", "location", "agrees"),
    [
        ("pvc", "/checkpoints/a.tar", True),
        ("pvc", "file:///checkpoints/a.tar", True),
        ("s3", "s3://bucket/a.tar", True),
        ("s3", "s3+http://localhost:9000/bucket/a.tar", True),
        ("oci", "oci://registry.example.com/checkpoints:a", True),
        ("", "s3://bucket/a.tar", True),
        ("pvc", "s3://bucket/a.tar", False),
        ("s3", "/checkpoints/a.tar", False),
        ("", "ftp://example.com/a.tar", True),
        ("fsspec", "ftp://example.com/a.tar", True),
        ("gcs", "gs://bucket/a.tar", True),
        ("azure", "gs://bucket/a.tar", False),
        ("fsspec", "/checkpoints/a.tar", False),
        ("fsspec", "file:///checkpoints/a.tar", True),
        ("", "checkpoints/a.tar", False),
    ],
)
def test_storage_type_and_location_must_agree(storage_type, location, agrees):
    if agrees:
        settings(STORAGE_TYPE=storage_type, LOCATION=location)
    else:
        with pytest.raises(SettingsError):
            settings(STORAGE_TYPE=storage_type, LOCATION=location)


def test_for_a_pvc_path_and_location_are_the_same():
    assert settings(PATH="/c/a.tar").location == "/c/a.tar"
    assert settings(LOCATION="file:///c/a.tar").path == "/c/a.tar"


@pytest.mark.parametrize("prefix", ["s3://bucket/prefix", "s3://minio.example.com:9000/bucket/prefix/"])
def test_a_prefix_of_a_bucket_is_completed_by_the_hash(prefix):
    location = settings(LOCATION=prefix, HASH="d936422b4f953f99").location
    assert location == f"{prefix.rstrip('/')}/d936422b4f953f99.tar"
    assert settings(LOCATION=location, HASH="other").location == location


def test_a_directory_is_completed_by_the_hash():
    assert (
        settings(PATH="/checkpoints/", HASH="d936422b4f953f99").location
        == "/checkpoints/d936422b4f953f99.tar"
    )


def test_a_remote_location_keeps_its_local_copy_apart():
    both = settings(LOCATION="s3://bucket/a.tar", PATH="/cache/a.tar")
    assert (both.location, both.path) == ("s3://bucket/a.tar", "/cache/a.tar")


@pytest.mark.parametrize(
    "variables",
    [
        {"SIGNAL_FILE": "/tmp/ready"},
        {"MODE": "restore"},
    ],
)
def test_a_mode_without_what_it_needs_is_a_mistake(variables):
    with pytest.raises(SettingsError):
        settings(**variables)


def test_shared_memory_and_what_only_begins_like_the_kernels_may_be_captured():
    assert settings(CAPTURE_PATHS="/dev/shm/x:/process:/devices").capture_paths == (
        "/dev/shm/x",
        "/process",
        "/devices",
    )


def test_typing_errors_in_names_are_found():
    assert unknown_variables({PREFIX + "SINGAL_FILE": "/x", PREFIX + "HASH": "x", "PATH": "/bin"}) == [
        PREFIX + "SINGAL_FILE"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORAGE_OPTIONS", "[" * 60_000),
        ("STORAGE_OPTIONS", '{"a":' * 60_000),
        ("STORAGE_OPTIONS", "9" * 5_000),
        ("CONCURRENCY", "1025"),
        ("CONCURRENCY", "9" * 5_000),
        ("CONCURRENCY", "²"),
        ("LOCATION", "/" + "a" * 4095),
        ("LOCATION", "s3://bucket/" + "é" * 2100),
        ("PATH", "/" + "a" * 100_000),
        ("EXCLUDE_PATHS", "/a:/" + "b" * 4095),
        ("CAPTURE_PATHS", "/data:/proc"),
        ("CAPTURE_PATHS", "/sys/fs"),
        ("CAPTURE_PATHS", "/dev/"),
        ("HASH", "../../etc"),
        ("HASH", "a\nb"),
        ("HASH", "a" * 201),
        ("STOP_GRACE", "1" * 100_000),
        *((name, "/\udcff") for name in sorted(VARIABLES)),
    ],
)
def test_no_value_is_more_than_a_mistake(name, value):
    """PID 1 reads them: whatever else happens there ends the container. Long ones are not repeated in whole."""
    with pytest.raises(SettingsError) as caught:
        settings(**{name: value})
    assert PREFIX + name in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("given", "read_as"),
    [("/var/cache/", "/var/cache"), ("//a//b/./c/", "/a/b/c"), ("/", "/"), ("/a/../b", "/a/../b")],
)
def test_a_path_is_read_as_everybody_else_writes_it(given, read_as):
    """It is compared with paths of the kernel's: a slash at the end would match nothing, and nobody would say so."""
    assert settings(WORK_DIR=given).work_dir == read_as
    if ".." not in given:
        for name in ("EXCLUDE_PATHS", "CAPTURE_PATHS", "REOPEN_PATHS"):
            found = settings(**{name: f"{given}:/x/"})
            assert getattr(found, name.lower()) == (read_as, "/x")


@pytest.mark.parametrize("name", ["EXCLUDE_PATHS", "CAPTURE_PATHS", "REOPEN_PATHS"])
def test_a_path_that_leads_up_is_refused(name):
    with pytest.raises(SettingsError, match="without"):
        settings(**{name: "/a/../b"})


def test_a_directory_name_may_end_with_a_slash():
    assert settings(CACHE_DIRECTORIES="__pycache__/,.cache").cache_directories == ("__pycache__", ".cache")


@pytest.mark.parametrize(
    ("name", "value"),
    [("CACHE_DIRECTORIES", "/root/.cache"), ("CACHE_DIRECTORIES", "a/b"), ("DROP_ENV", "TOKEN=x")],
)
def test_what_would_match_nothing_is_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        settings(**{name: value})
