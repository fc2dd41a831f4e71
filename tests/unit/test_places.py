"""What a place gives a launcher: capabilities, projected files, a CRIU that starts."""

import os

import pytest

from dynamo_entry.checks import privileges
from dynamo_entry.checks.privileges import Privileges
from dynamo_entry.criu import process
from dynamo_entry.criu.rewrite import files
from dynamo_entry.errors import CheckpointError
from dynamo_entry.linux import loader

NEEDED = frozenset((19, 40))


@pytest.mark.parametrize(
    ("effective", "bounding", "no_new_privileges", "words", "not_words"),
    [
        ((), (), False, "capabilities.add: [SYS_PTRACE, CHECKPOINT_RESTORE]", "bounding"),
        ((19,), (19,), False, "capabilities.add: [CHECKPOINT_RESTORE]", "SYS_PTRACE"),
        ((), NEEDED, False, "FILE_CAPABILITIES", "capabilities.add"),
        ((), NEEDED, True, "allowPrivilegeEscalation: true", "capabilities.add"),
    ],
)
def test_what_is_there_already_is_not_asked_for(effective, bounding, no_new_privileges, words, not_words):
    have = Privileges(frozenset(effective), frozenset(), False, frozenset(bounding), no_new_privileges)
    found = privileges.lack(have, 1000)
    assert words in found.remedy
    assert not_words not in found.what + found.remedy


def test_capabilities_in_effect_lack_nothing():
    assert privileges.lack(Privileges(NEEDED, NEEDED, False, NEEDED), 1000) is None


@pytest.mark.parametrize(
    ("effective", "mine", "mode", "may"),
    [
        ((), True, 0o100600, True),
        ((), True, 0o100444, False),
        ((), True, 0o100066, False),
        ((), False, 0o100666, True),
        ((), False, 0o100660, False),
        ((1,), True, 0o100400, True),
        ((1,), False, 0o100000, True),
    ],
)
def test_whose_files_can_be_opened_for_writing(effective, mine, mode, may):
    """1: DAC_OVERRIDE. Without it the owner's rights count for the owner, root's too."""
    have = Privileges(frozenset(effective), frozenset(), False)
    assert have.may_write(os.geteuid() if mine else os.geteuid() + 1, mode) == may


def test_loaders_variables_are_the_engines_unless_they_are_kept():
    given = [b"LD_PRELOAD", b"LD_LIBRARY_PATH", b"GLIBC_TUNABLES", b"PATH", b"OLD_PATH", b"LDX"]
    assert loader.variables(given) == [b"GLIBC_TUNABLES", b"LD_LIBRARY_PATH", b"LD_PRELOAD"]
    assert loader.variables([b"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"])
    assert loader.variables(given, ("LD_PRELOAD",)) == [b"GLIBC_TUNABLES", b"LD_LIBRARY_PATH"]


def test_a_projected_file_is_found_behind_data(tmp_path):
    new = "..2026_11_28_11_00_00.222"
    (tmp_path / new).mkdir()
    (tmp_path / "..data").symlink_to(new)
    old = f"{tmp_path}/..2026_11_28_10_00_00.111"
    assert files.found_here(f"{old}/a/b") == f"{tmp_path}/{new}/a/b"
    assert files.found_here(old) == f"{tmp_path}/{new}"
    assert files.found_here(f"{tmp_path}/{new}/a") == f"{tmp_path}/{new}/a"
    for other in (f"{tmp_path}/..data/a", f"{tmp_path}/..2026/a", "/nowhere/..2026_11_28_10_00_00.111/a"):
        assert files.found_here(other) == other


def test_what_only_another_image_can_mend_is_not_tried_again(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CheckpointError) as caught:
        process.version()
    assert (caught.value.reason, caught.value.retry) == ("CriuMissing", False)


def test_without_a_shell_criu_is_not_asked(monkeypatch, tmp_path):
    (tmp_path / "criu").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "_SHELL", f"{tmp_path}/sh")
    with pytest.raises(CheckpointError) as caught:
        process.version()
    assert (caught.value.reason, caught.value.retry) == ("ShellMissing", False)


def test_the_loaders_words_are_the_message_of_a_criu_that_does_not_start(tmp_path, monkeypatch):
    words = "criu: symbol lookup error: criu: undefined symbol: protobuf_c_message_unpack"
    (tmp_path / "criu").write_text(f'#!/bin/sh\n[ "$LD_BIND_NOW" = 1 ] && echo "{words}" >&2\nexit 127\n')
    (tmp_path / "criu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CheckpointError) as caught:
        process.version()
    assert (caught.value.reason, caught.value.retry) == ("CriuBroken", False)
    assert words in caught.value.message and "ld.so.conf.d" in caught.value.hint
