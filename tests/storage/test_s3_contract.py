"""Buckets of real servers keep the contract of every store."""

import pytest
from store_contract import StoreContract

from conftest import RETRY
from dynamo_entry.storage.s3 import S3Store


class TestContract(StoreContract):
    @pytest.fixture
    def again(self, any_bucket):
        return lambda: S3Store(f"s3+http://{any_bucket}/some/prefix/a b+c.tar", RETRY)

    @pytest.fixture
    def store(self, again):
        return again()
