"""The webhook's certificate, in a Secret that all replicas share; in self-signed mode it is made and renewed here."""

from __future__ import annotations

import base64
import ssl
import tempfile
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config

_LIFE = timedelta(days=365)

#: Renewed when a third of its life is left.
_RENEW_BEFORE = _LIFE / 3

_CONFIGURATIONS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


class Certificates:
    """Serves the newest certificate by ``context``; call ``refresh`` now and then."""

    def __init__(self, config: Config, cluster: Cluster, log: Any) -> None:
        self._config = config
        self._cluster = cluster
        self._log = log
        self._secrets = f"/api/v1/namespaces/{config.operator.namespace}/secrets"
        self._secret = config.webhook.certificates.secret_name
        self._serial = ""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    @property
    def is_loaded(self) -> bool:
        """Whether there is a certificate to serve."""
        return bool(self._serial)

    def refresh(self) -> None:
        """Load the Secret's certificate; in self-signed mode make sure that it is a good one. Raises ApiError."""
        mode = self._config.webhook.certificates.mode
        secret = self._cluster.find(f"{self._secrets}/{self._secret}")
        if mode == "self-signed" and (secret is None or not _is_good(secret, self._name())):
            secret = self._renew(secret)
        data = (secret or {}).get("data") or {}
        # cert-manager configures the API server itself.
        if mode != "cert-manager" and data.get("ca.crt"):
            self._announce(data["ca.crt"])
        if data.get("tls.crt"):
            self._load(data, has_authority=bool(data.get("ca.crt")) or mode == "cert-manager")

    def _name(self) -> str:
        return f"{self._config.webhook.service}.{self._config.operator.namespace}.svc"

    def _load(self, data: Object, *, has_authority: bool) -> None:
        if data["tls.crt"] == self._serial:
            return
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(base64.b64decode(data["tls.crt"]) + b"\n" + base64.b64decode(data["tls.key"]))
                file.flush()
                # Try the pair in a new context first: a bad pair would leave the one in use without a certificate.
                for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                    context.load_cert_chain(file.name)
        except (ssl.SSLError, KeyError) as error:  # somebody may be about to correct it
            self._log.warning("webhook certificate not usable", secret=self._secret, message=str(error))
            return
        self._serial = data["tls.crt"]
        self._log.info("webhook certificate loaded", secret=self._secret)
        if not has_authority:
            self._log.warning(
                "webhook not trusted",
                secret=self._secret,
                message="without ca.crt the API server calls no webhook: add it",
            )

    def _renew(self, old: Object | None) -> Object:
        made = self_signed(self._name(), _LIFE)
        previous = base64.b64decode((old or {}).get("data", {}).get("ca.crt", ""))
        if previous:  # replicas that still serve the old certificate stay trusted
            made["ca.crt"] += (
                b"\n" + previous.split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
            )
        data = {name: base64.b64encode(value).decode() for name, value in made.items()}
        metadata, path = {"name": self._secret}, f"{self._secrets}/{self._secret}"
        try:
            if old is None:
                kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
                return self._cluster.create(self._secrets, kind | {"metadata": metadata, "data": data})
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            return self._cluster.merge(path, {"metadata": metadata, "data": data})
        except ApiError as error:
            if error.status != 409:
                raise
            return self._cluster.get(path)  # another replica was faster

    def _announce(self, bundle: str) -> None:
        """Tell the API server which authority to trust."""
        for kind in _CONFIGURATIONS:
            path = f"/apis/admissionregistration.k8s.io/v1/{kind}/{self._config.webhook.configuration}"
            found = self._cluster.find(path)
            webhooks = (found or {}).get("webhooks") or ()
            if found is None or all(one["clientConfig"].get("caBundle") == bundle for one in webhooks):
                continue
            for one in webhooks:
                one["clientConfig"]["caBundle"] = bundle
            version = found["metadata"]["resourceVersion"]
            self._cluster.merge(path, {"metadata": {"resourceVersion": version}, "webhooks": webhooks})


def _is_good(secret: Object, name: str) -> bool:
    """Return whether a pair was made for that name by the authority beside it, with enough of its life left."""
    try:
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        certificate = x509.load_pem_x509_certificate(data["tls.crt"])
        key = serialization.load_pem_private_key(data["tls.key"], None)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(data["ca.crt"]))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (KeyError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
    is_ours = key.public_key() == certificate.public_key()
    return is_ours and left >= _RENEW_BEFORE and name in names.get_values_for_type(x509.DNSName)


def self_signed(name: str, life: timedelta) -> dict[str, bytes]:
    """Return a new authority and a server certificate by it, in PEM under the names of a TLS Secret."""
    now = datetime.now(timezone.utc)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dynamo-entry")])

    def certificate(subject: x509.Name, public: Any, *, is_authority: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(authority).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=10)).not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            # It distinguishes authorities of the same name while both are trusted.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        )  # fmt: skip

    root = certificate(authority, authority_key.public_key(), is_authority=True).sign(
        authority_key, hashes.SHA256()
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    leaf = (
        certificate(subject, key.public_key(), is_authority=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"ca.crt": root.public_bytes(pem), "tls.crt": leaf.public_bytes(pem), "tls.key": secret}
