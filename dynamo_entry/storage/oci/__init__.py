"""An archive as an artifact of an OCI registry: layers that make up the tar, found by tag or digest.

See docs/storage.md; the protocol is the OCI distribution specification 1.1,
https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md.
"""

from dynamo_entry.storage.oci.store import OciStore

__all__ = ["OciStore"]
