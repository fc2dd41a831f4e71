"""An archive as an object of an S3 bucket: AWS, MinIO, Ceph and compatible servers. See docs/storage.md."""

from dynamo_entry.storage.s3.store import S3Store

__all__ = ["S3Store"]
