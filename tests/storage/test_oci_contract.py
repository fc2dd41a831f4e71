"""Repositories of a real registry keep the contract of every store."""

import pytest
from registries import RETRY, new_location, registries, registry  # noqa: F401
from store_contract import StoreContract

from dynamo_entry.storage.oci import OciStore


class TestContract(StoreContract):
    @pytest.fixture
    def again(self, registry):
        location = new_location(registry)
        return lambda: OciStore(location, RETRY)

    @pytest.fixture
    def store(self, again):
        return again()
