"""botocore's client of one bucket, over our connections.

Endpoints, addressing, regions, credentials, signatures and documents are botocore's. It tries every request
once: how long to try depends on the waiting phase (``Retry``), which no setting of botocore's knows.
"""

from __future__ import annotations

import copy
import email.utils
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dynamo_entry.errors import SettingsError, StorageError, StorageUnavailable
from dynamo_entry.storage.base import NOTHING, Access
from dynamo_entry.storage.failures import answered, words
from dynamo_entry.storage.http import Response
from dynamo_entry.storage.retry import Retry
from dynamo_entry.storage.s3.location import DEFAULT_REGION, Location
from dynamo_entry.storage.s3.presigned import PresignedReads
from dynamo_entry.storage.s3.transport import READ, Transport

_HINTS = {
    "AccessDenied": "allow s3:GetObject, PutObject, AbortMultipartUpload, DeleteObject and ListBucket; "
    "without ListBucket, S3 refuses to say that an object is missing",
    "InvalidAccessKeyId": "the access key is not known to this server",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired: renew the secret, or use a role",
    "RequestTimeTooSkewed": "the clock of this node is wrong",
    "NoSuchBucket": "create the bucket, or correct the location",
    "InvalidObjectState": "a lifecycle rule moved it to a class that cannot be read at once: restore it, and exempt the prefix",
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"),
        "set AWS_REGION to the bucket's region",
    ),
    **dict.fromkeys(
        ("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"),
        "the bucket's quota, or the server's disk, is used up: remove old checkpoints",
    ),
}

#: The token of temporary keys, by its name and its old one; and what else has two names.
_TOKENS = {"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"}
_TWO_NAMES = ({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}, {"AWS_REGION", "AWS_DEFAULT_REGION"})

#: The bucket must be in the host name (Alibaba's store).
_VIRTUAL = {"SecondLevelDomainForbidden", "VirtualHostDomainRequired"}

_HINTS |= dict.fromkeys(
    _VIRTUAL,
    "name the endpoint by its host name: the bucket becomes part of it (s3 addressing_style = virtual)",
)

#: For a policy that forbids what the login may otherwise do.
_DENIED_HINT = (
    "does the bucket's policy demand encryption or an ACL of new objects? set DYNAMO_CHECKPOINT_STORAGE_OPTIONS="
    '{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "…", "ACL": "…"}'
)

#: For an encryption key that this login may not use.
_KEY_HINT = "allow kms:GenerateDataKey and kms:Decrypt with the key that encrypts the bucket"

#: For buckets whose objects are locked.
_CHECKSUM_HINT = (
    "the bucket takes no object without a checksum: set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported"
)

#: Codes that mean "later", although the status does not.
_TRANSIENT = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "BadDigest",
              "XAmzContentSHA256Mismatch", "TooManyRequests", "IncompleteBody", "ConditionalRequestConflict"}  # fmt: skip

#: Refusals that have another status than 403.
_REFUSALS = {"NoSuchBucket", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}

#: Codes of a login that has ended, or was exchanged: its source may have another one now. The last one is MinIO's.
_ENDED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch",
          "InvalidTokenId"}  # fmt: skip


class Client:
    """One bucket. Thread-safe. Every request is tried once; ``call`` repeats it as its policy says."""

    def __init__(self, location: Location, name: str, retry: Retry, access: Access = NOTHING) -> None:
        self.retry = retry
        #: boto3's arguments of a new object: encryption, key, access control list, …
        self.options = access.options
        self.name = name
        self._location = location
        self._access = access
        ca_file = access.ca_file or access.environ.get("AWS_CA_BUNDLE", "")
        self._transport = Transport(name, stall_s=retry.stall_s, ca_file=ca_file)
        self._presigned = PresignedReads(location, name, self._transport, environment(access))
        self._shared = _Made()

    def with_short_deadline(self) -> Client:
        """Return the same client with short limits, for cleanup after a failure."""
        client = copy.copy(self)
        client.retry = self.retry.shortened()
        return client

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is AWS's own."""
        host: str = self._meta().endpoint_url.partition("://")[2].partition("/")[0]
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    @property
    def checksum(self) -> dict[str, str]:
        """boto3's argument for a checksum of each part; empty if neither the options nor botocore's settings ask for one."""
        from botocore.httpchecksum import DEFAULT_CHECKSUM_ALGORITHM  # noqa: PLC0415 - see presigned

        algorithm = self.options.get("ChecksumAlgorithm")
        if not algorithm and self._meta().config.request_checksum_calculation == "when_supported":
            algorithm = DEFAULT_CHECKSUM_ALGORITHM
        return {"ChecksumAlgorithm": str(algorithm)} if algorithm else {}

    def call(self, operation: str, key: str = "", **parameters: Any) -> dict[str, Any]:
        """Return the response to a request, repeated as the policy says. Raises StorageError."""
        return self.retry.call(lambda: self._once(operation, key, parameters))

    @contextmanager
    def exchange(self, range_: str) -> Iterator[Response]:
        """Make one attempt to read the location's object, and yield the response. Raises StorageError."""
        with self._presigned.exchange(range_) as response:
            if response is not None:
                yield response
                return
        with self.reading(self._location.key, Range=range_) as response:
            yield response

    @contextmanager
    def reading(self, key: str, **parameters: Any) -> Iterator[Response]:
        """Make one attempt to read an object by botocore's client, and yield the response. Raises StorageError."""
        with self._once(READ, key, parameters)["Body"] as unread, unread.exchange:
            yield unread.response

    def close(self) -> None:
        """Close idle connections; they are opened again when needed."""
        self._transport.close()

    def _once(self, operation: str, key: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        client, session = self._client_and_session()
        from botocore import exceptions, xform_name  # noqa: PLC0415 - see presigned
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        from dynamo_entry.storage.s3 import credentials  # noqa: PLC0415

        credentials.check(session, self.name)
        place = {"Bucket": self._location.bucket, **({"Key": key} if key else {})}
        try:
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**place, **parameters)
        except exceptions.ClientError as error:
            failure = self._failure(operation, error.response)
            if failure.reason in _ENDED and self._has_newer_login(session):
                raise StorageUnavailable(
                    failure.message, reason=failure.reason, status=failure.status
                ) from None
            raise failure from None
        except exceptions.ParamValidationError as error:
            hint = "DYNAMO_CHECKPOINT_STORAGE_OPTIONS are arguments of boto3's create_multipart_upload"
            raise SettingsError(f"{self.name}: {operation}: {error}", hint=hint) from None
        except (exceptions.BotoCoreError, ResponseParserError, ValueError) as error:
            raise bad_answer(self.name, operation, error) from None
        return answer

    def _has_newer_login(self, used: Any) -> bool:
        """Return whether the source of the credentials has newer ones than the session ``used``: a file may have changed."""
        from dynamo_entry.storage.s3 import credentials  # noqa: PLC0415 - see presigned

        made = self._shared
        with made.lock:
            if made.session is used:
                fresh = self._session()
                credentials.check(fresh, self.name)
                if credentials.frozen(fresh) == credentials.frozen(used):
                    return False
                made.session, made.client = fresh, None
        return True

    def _session(self) -> Any:
        from dynamo_entry.storage.s3 import credentials  # noqa: PLC0415 - see presigned

        access = self._access.renewed()
        return credentials.session(environment(access), access.variables, self.retry.stall_s, access.ca_file)

    def _client(self) -> Any:
        return self._client_and_session()[0]

    def _meta(self) -> Any:
        """Return what botocore's client says of itself. To make one takes credentials, whose source may be late."""
        return self.retry.call(self._client).meta

    def _client_and_session(self) -> tuple[Any, Any]:
        with self._shared.lock:
            if self._shared.client is None:
                self._make()
            return self._shared.client, self._shared.session

    def _make(self) -> None:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - see presigned

        from dynamo_entry.storage.s3 import credentials, signer  # noqa: PLC0415

        made = self._shared
        made.session = made.session or self._session()
        credentials.check(made.session, self.name)
        try:
            made.client = self._created(made.session, is_virtual=made.is_virtual)
        except (BotoCoreError, ValueError) as error:
            hint = (
                "correct the location's host, AWS_CONFIG_FILE or the AWS_… variable: host names have letters, "
                "digits, hyphens and dots"
            )
            raise SettingsError(f"{self.name}: {words(str(error))}", hint=hint) from None
        events = made.client.meta.events
        events.register("before-send.s3", self._transport)
        events.register("needs-retry.s3.HeadBucket", _stay)
        events.register(
            "choose-signer.s3", lambda signature_version, **_: signer.NAME if signature_version == "s3v4" else None
        )  # fmt: skip

    def _created(self, session: Any, *, is_virtual: bool) -> Any:
        """Return botocore's client of the bucket's endpoint. Raises BotoCoreError, ValueError."""
        from botocore.config import Config  # noqa: PLC0415 - see presigned

        environ, endpoint, config = (
            environment(self._access),
            self._location.endpoint,
            session.get_scoped_config(),
        )
        # AWS's own checksums, which other servers do not know, are sent only if the user asks for them.
        own = {
            name: "when_required" for name in ("request_checksum_calculation", "response_checksum_validation")
            if not (environ.get(f"AWS_{name.upper()}") or config.get(name))
        }  # fmt: skip
        s3: dict[str, Any] = {}
        if "payload_signing_enabled" not in (config.get("s3") or {}):
            # Without TLS the signature covers the body: the server refuses what was damaged on the way.
            s3["payload_signing_enabled"] = endpoint.startswith("http:")
        if is_virtual:
            s3["addressing_style"] = "virtual"
        return session.create_client(
            "s3",
            region_name=environ.get("AWS_REGION") or session.get_config_variable("region") or DEFAULT_REGION,
            endpoint_url=endpoint or None,
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, s3=s3, **own),
        )

    def _failure(self, operation: str, response: Mapping[str, Any]) -> StorageError:
        """Return the error for a response; facts that help the next attempt are remembered."""
        from dynamo_entry.storage.s3.signer import CLOCK  # noqa: PLC0415 - see presigned

        meta, error = response["ResponseMetadata"], response.get("Error", {})
        status, headers = meta["HTTPStatusCode"], meta.get("HTTPHeaders", {})
        code, detail = str(error.get("Code") or ""), str(error.get("Message") or "")
        if code == str(status):  # not a document of S3
            code = ""
        if code == "RequestTimeTooSkewed" and CLOCK.learn(moment(response)):
            return StorageUnavailable(
                f"{self.name}: the clock is wrong by {CLOCK.skew_s:.0f} s", reason=code, status=status
            )
        if code in _VIRTUAL and self._shared.use_virtual():
            return StorageUnavailable(f"{self.name}: {detail or code}", reason=code, status=status)
        hint = _HINTS.get(code, "")
        if "kms:" in detail:
            hint = _KEY_HINT
        elif "explicit deny" in detail:
            hint = _DENIED_HINT
        elif "x-amz-checksum" in detail:
            hint = _CHECKSUM_HINT
        # A server without the object says so in a document. A 404 without one is a proxy's, whose server is not ready.
        is_absent_server = status == 404 and not code
        return answered(
            f"{self.name}: {operation}", status, code=code, detail=detail, hint=hint,
            is_transient=code in _TRANSIENT or is_absent_server, is_refusal=code in _REFUSALS,
            retry_after=headers.get("retry-after", ""),
            request_id=meta.get("RequestId", "") or headers.get("x-amz-request-id", ""),
        )  # fmt: skip


class _Made:
    """What botocore creates once for a client and its copies."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session: Any = None
        self.client: Any = None
        self.is_virtual = False

    def use_virtual(self) -> bool:
        """Make the next client name the bucket in the host; returns False if it already does."""
        with self.lock:
            if self.is_virtual:
                return False
            self.is_virtual, self.client = True, None
            return True


def environment(access: Access) -> dict[str, str]:
    """Return the environment with the secret's variables; what the secret has comes from it alone, by whatever name.

    The rest of the process's environment may be the engine's: a token there belongs to the keys there.
    """
    theirs = _TOKENS - access.variables.keys() if access.variables.get("AWS_ACCESS_KEY_ID") else set()
    for names in _TWO_NAMES:
        if any(map(access.variables.get, names)):
            theirs |= names - access.variables.keys()
    return {name: value for name, value in access.environ.items() if name not in theirs}


def _stay(request_dict: dict[str, Any], **_: Any) -> None:
    """Stop botocore from following a second redirect: it asks for the bucket's region each time, possibly for ever."""
    request_dict["context"]["s3_redirect"]["redirected"] = True


def bad_answer(name: str, operation: str, error: Exception) -> StorageError:
    """Return the error for a response that cannot be parsed."""
    return StorageError(
        f"{name}: {operation} was not answered as S3 does: {error}",
        hint="is it an S3 server, or does a proxy in front of it answer?", reason="BadAnswer",
    )  # fmt: skip


def moment(answer: Mapping[str, Any]) -> float:
    """Return the server's own time from an answer, or 0."""
    try:
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0
