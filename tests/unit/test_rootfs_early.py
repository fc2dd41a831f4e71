"""Changes that are looked for while CRIU dumps are those that are there when it has."""

import os

import pytest

from dynamo_entry.linux import proc
from dynamo_entry.rootfs import changes, early
from dynamo_entry.rootfs.early import EarlySearch


@pytest.fixture
def searches(tmp_path):
    """How often the tree, in which one file changed and one lost its name, was searched; and a search that begins."""
    tree = tmp_path / "tree"
    tree.mkdir()
    made = []

    def search(sizes):
        made.append(1)
        return changes.find_all(starts, frozenset(), frozenset(), sizes)

    starts = changes.mark([str(tree)])
    (tree / "changed").write_text("x" * 5000)
    (tree / "sub").mkdir()
    with open(tree / "sub" / "lost", "w"):
        os.link(tree / "sub" / "lost", tree / "kept")
        os.unlink(tree / "sub" / "lost")
        yield tree, made, EarlySearch(search, lambda: proc.open_paths([os.getpid()]))


def told(search):
    sizes = {}
    return {change.path: change.names for change in search.result(sizes)}, sizes


def test_it_is_searched_once_however_often_it_is_said_that_tasks_are_frozen(searches):
    tree, made, search = searches
    for _ in range(3):
        search.begin()
    found, sizes = told(search)
    assert {*found} == {str(tree), *(f"{tree}/{name}" for name in ("changed", "kept", "sub"))}
    assert sizes[str(tree)] >= 5000
    assert len(made) == 1


def test_a_name_that_criu_gives_to_an_open_file_is_found(searches):
    tree, made, search = searches
    search.begin()
    search._thread.join()
    os.link(tree / "kept", tree / "sub" / "link_remap.1")
    found, _ = told(search)
    assert str(tree / "sub" / "link_remap.1") in found
    assert found[str(tree / "sub")] == ("link_remap.1",)
    assert len(made) == 2


def test_a_name_in_the_directory_above_one_that_is_gone_is_found(searches):
    tree, made, search = searches
    (tree / "sub").rmdir()
    search.begin()
    search._thread.join()
    os.link(tree / "kept", tree / "link_remap.1")
    found, _ = told(search)
    assert str(tree / "link_remap.1") in found
    assert len(made) == 2


def test_a_name_of_the_same_tick_is_found(searches, monkeypatch):
    """File times come from a clock that steps every few milliseconds."""
    tree, made, search = searches
    real, before = os.lstat, os.lstat(tree / "sub")
    monkeypatch.setattr(os, "lstat", lambda path: before if path == str(tree / "sub") else real(path))
    search.begin()
    search._thread.join()
    os.link(tree / "kept", tree / "sub" / "link_remap.1")
    found, _ = told(search)
    assert str(tree / "sub" / "link_remap.1") in found
    assert len(made) == 2


def test_without_a_frozen_task_it_is_searched_at_the_end(searches):
    tree, made, search = searches
    found, _ = told(search)
    assert str(tree / "changed") in found
    assert len(made) == 1


def test_what_would_take_too_much_memory_is_found_one_by_one(searches, monkeypatch):
    monkeypatch.setattr(early, "_MOST_CHANGES", 2)
    tree, made, search = searches
    search.begin()
    found, sizes = told(search)
    assert str(tree / "changed") in found
    assert sizes[str(tree)] < 2 * 8192
    assert len(made) == 2


def test_a_search_that_fails_says_so_where_its_result_is_wanted():
    def fails(_sizes):
        raise PermissionError(13, "no")
        yield

    search = EarlySearch(fails, list)
    search.begin()
    with pytest.raises(PermissionError):
        list(search.result({}))
