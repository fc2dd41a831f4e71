"""Opens fsspec's filesystem for a location, with our settings as arguments of its library."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec import asyn, config
from fsspec.registry import known_implementations, registry

from dynamo_entry.errors import SettingsError, StorageDenied
from dynamo_entry.storage.base import Access
from dynamo_entry.storage.fsspec import failures
from dynamo_entry.storage.retry import Retry
from dynamo_entry.storage.trust import authorities

GOOGLE = frozenset(("gs", "gcs"))
AZURE = frozenset(("az", "abfs", "abfss", "adl"))

#: Schemes whose uploads stay invisible before their last part. Elsewhere a complete file is renamed.
OBJECT_STORES = GOOGLE | AZURE | {"s3", "s3a"}

#: Azure's by their arguments, for ever: the library's finalizer of a filesystem refers to it, so that none is ever freed.
_azure: list[tuple[dict[str, Any], Any]] = []
_azure_lock = threading.Lock()

#: Each is a login of Azure's by itself. Those of the environment, perhaps the engine's, come before most that adlfs is given.
_WHOLE_LOGINS = ("connection_string", "account_key", "sas_token")

_EXTRAS = {**dict.fromkeys(GOOGLE, "gcs"), **dict.fromkeys(AZURE, "azure")}


def check(location: str) -> str:
    """Return the location's scheme, without I/O. Raises SettingsError if fsspec does not know it."""
    scheme = location.partition("://")[0]
    if scheme not in known_implementations and scheme not in registry:
        raise SettingsError(
            f"no storage backend for {location!r}: fsspec knows no scheme {scheme!r}",
            hint="use an absolute path, s3://, oci://, gs://, az://, or a scheme of an installed fsspec package",
        )
    return scheme


def connect(location: str, access: Access, retry: Retry) -> tuple[Any, str]:
    """Return the filesystem and the path in it. Raises SettingsError, StorageError."""
    scheme = check(location)
    try:
        kind = _class(scheme)
    except ImportError as error:
        raise _missing(scheme, error) from None
    options = {
        **_defaults(scheme, retry), **_logins(scheme, access.variables), **_trust(scheme, access.ca_file),
        **access.options,
    }  # fmt: skip
    try:
        arguments = {**kind._get_kwargs_from_urls(location), **options}  # noqa: SLF001
        fs = _shared(kind, arguments) if scheme in AZURE else _new(kind, arguments)
        return fs, kind._strip_protocol(location)  # noqa: SLF001 - what fsspec.core.url_to_fs does
    except TypeError as error:
        raise SettingsError(
            f"{location}: the file system does not take these options: {error}",
            hint="correct DYNAMO_CHECKPOINT_STORAGE_OPTIONS, or the files in CREDENTIALS_DIR",
        ) from None
    except Exception as error:
        raise failures.storage_error(f"{location}: connect", error) from error


def _new(kind: Any, arguments: dict[str, Any]) -> Any:
    """Return a filesystem of its own: those in fsspec's cache are never closed, and remember listings."""
    return kind(**arguments, skip_instance_cache=True)


def _shared(kind: Any, arguments: dict[str, Any]) -> Any:
    """Return the filesystem that everybody with these arguments has."""
    with _azure_lock:
        found = next((fs for known, fs in _azure if type(fs) is kind and known == arguments), None)
        if found is None:
            with _without_others_logins(arguments):
                found = _new(kind, arguments)
            _azure.append((arguments, found))
        return found


@contextmanager
def _without_others_logins(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Hide the environment's logins from the library if ``arguments`` has one."""
    given = {*_WHOLE_LOGINS, "client_secret", "credential"} & arguments.keys()
    theirs = [f"AZURE_STORAGE_{name.upper()}" for name in _WHOLE_LOGINS if given and name not in given]
    hidden = {name: os.environ.pop(name) for name in theirs if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _class(scheme: str) -> Any:
    """Return the filesystem's class.

    Google's default one requests a bucket's layout by gRPC before every call.
    """
    if scheme in GOOGLE:
        import gcsfs.core  # noqa: PLC0415 - an extra

        return gcsfs.core.GCSFileSystem
    return fsspec.get_filesystem_class(scheme)


def _missing(scheme: str, error: ImportError) -> SettingsError:
    extra = _EXTRAS.get(scheme)
    hint = (
        f"pip install 'dynamo-entry[{extra}]' into the launcher's environment; images: --build-arg STORES=1"
        if extra
        else "install it into the launcher's environment"
    )
    return SettingsError(
        f"the Python package for {scheme}:// is missing: {error}", hint=hint, reason="PackageMissing"
    )


def _defaults(scheme: str, retry: Retry) -> dict[str, Any]:
    """Return our defaults for the library; STORAGE_OPTIONS overrides them."""
    if scheme in GOOGLE:
        return {"requests_timeout": retry.limit_s}
    if scheme in AZURE:
        return {"read_timeout": int(retry.limit_s) or 1}
    if scheme in ("sftp", "ssh"):
        return {"host_key_policy": "reject"}  # instead of trusting whoever answers
    return {}


def _logins(scheme: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for a mounted secret's files: FSSPEC_<scheme>_<argument>, and the clouds' own names."""
    found: dict[str, dict[str, Any]] = {}
    config.set_conf_env(
        found, {name: value for name, value in variables.items() if name.startswith("FSSPEC_")}
    )
    given: dict[str, Any] = {}
    if scheme in GOOGLE and (login := variables.get("GOOGLE_APPLICATION_CREDENTIALS")):
        given["token"] = _key(login)
    if scheme in AZURE:
        prefix = "AZURE_STORAGE_"
        given = {
            name[len(prefix) :].lower(): value for name, value in variables.items() if name.startswith(prefix)
        }
    return {**given, **found.get(scheme, {})}


def _key(login: str) -> str | dict[str, Any]:
    """Return the path of a key file, or the key itself, which is a JSON object."""
    if not login.startswith("{"):
        return login
    try:
        return dict(json.loads(login))
    except ValueError:
        raise StorageDenied(
            "GOOGLE_APPLICATION_CREDENTIALS in CREDENTIALS_DIR is neither a path nor a JSON key",
            hint="put the service account's key file there", reason="CredentialsUnreadable",
        ) from None  # fmt: skip


def _trust(scheme: str, ca_file: str) -> dict[str, Any]:
    """Return the argument for a private authority.

    Raises StorageDenied for an unreadable file, SettingsError for a library without such an argument.
    """
    if not ca_file or scheme in ("file", "local", "memory", "sftp", "ssh"):
        return {}
    argument = {
        "gs": "session_kwargs",
        "gcs": "session_kwargs",
        "http": "client_kwargs",
        "https": "client_kwargs",
    }
    if scheme not in argument:
        raise SettingsError(
            f"the library of {scheme}:// has no argument for a CA bundle",
            hint="unset DYNAMO_CHECKPOINT_CA_FILE, and set SSL_CERT_FILE or what its documentation names",
        )
    connector = asyn.sync(asyn.get_loop(), _connector, authorities(ca_file))
    return {argument[scheme]: {"connector": connector}}


async def _connector(context: ssl.SSLContext) -> Any:
    import aiohttp  # noqa: PLC0415 - comes with the file systems that need it

    return aiohttp.TCPConnector(ssl=context)
