"""The same containers as the container tests."""

import pytest
from containers import Containers
from fixtures import containers, worker_image  # noqa: F401
from launcher import NAME, published


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Makes an archive for many restores of an engine with that environment; returns where it is."""
    made = []

    def make(**env):
        place = Containers(tmp_path_factory.mktemp("stored"))
        made.append(place)
        published(place, env=env)
        return place.checkpoints / NAME

    yield make
    for place in made:
        place.close()


@pytest.fixture
def side_by_side(tmp_path):
    """Makes places for containers that know nothing of each other, one for each key."""
    made = []

    def make(*keys):
        assert keys, "a test of no case shows nothing"
        for key in keys:
            (tmp_path / str(key)).mkdir()
            made.append(Containers(tmp_path / str(key)))
        return dict(zip(keys, made, strict=True))

    yield make
    for place in made:
        place.close()
