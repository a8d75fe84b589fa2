"""The small reader of certificates agrees with the library that knows everything, and fails on what is malformed."""

import base64
import contextlib
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fireline_wire.leaf import Leaf, read_leaf

NOW = datetime(2026, 5, 2, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def _certificate(serial: int, names: list[x509.GeneralName], *, usages: int = 0) -> bytes:
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=x509.Name([]),
        public_key=KEY.public_key(),
        serial_number=serial,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    for number in range(usages):
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, bytes(200)), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


_NAMES = st.one_of(
    st.from_regex(r"spiffe://[a-z]{1,200}/[a-z]{1,20}", fullmatch=True).map(x509.UniformResourceIdentifier),
    st.from_regex(r"[a-z]{1,60}\.[a-z]{1,20}", fullmatch=True).map(x509.DNSName),
)


@given(
    serial=st.integers(min_value=1, max_value=(1 << 159) - 1),
    names=st.lists(_NAMES, max_size=4),
    usages=st.integers(min_value=0, max_value=2),
)
def test_it_agrees_with_the_library(serial: int, names: list[x509.GeneralName], usages: int) -> None:
    """Any serial number, any mix of names, extensions before the one that counts."""
    pem = _certificate(serial, names, usages=usages)

    uris = tuple(n.value for n in names if isinstance(n, x509.UniformResourceIdentifier))
    assert read_leaf(pem) == Leaf(format(x509.load_pem_x509_certificate(pem).serial_number, "x"), uris)


def test_only_the_first_certificate_of_a_chain_counts() -> None:
    """The authority that follows it says nothing about the peer."""
    chain = _certificate(5, []) + _certificate(6, [])

    assert read_leaf(chain) == Leaf("5", ())


@given(data=st.data())
def test_a_certificate_that_is_cut_or_grown_is_an_error(data: st.DataObject) -> None:
    """Every length must fit exactly; nothing but ValueError ever comes out."""
    der = _der()
    cut = data.draw(st.integers(min_value=0, max_value=len(der) - 1))

    for broken in (der[:cut], der + bytes(data.draw(st.integers(min_value=1, max_value=9)))):
        with pytest.raises(ValueError, match="certificate"):
            read_leaf(_pem(broken))


@given(data=st.data())
def test_no_flipped_byte_does_worse_than_an_error(data: st.DataObject) -> None:
    """TLS would have refused it; the reader neither hangs nor raises anything else."""
    der = bytearray(_der())
    der[data.draw(st.integers(min_value=0, max_value=len(der) - 1))] ^= data.draw(st.integers(1, 255))

    with contextlib.suppress(ValueError):
        read_leaf(_pem(bytes(der)))


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----", "a certificate in PEM that is no base64"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", "a certificate with 0 elements"),
    ],
)
def test_what_is_no_certificate_is_named(pem: bytes, message: str) -> None:
    """The message says what was wrong."""
    with pytest.raises(ValueError, match=message):
        read_leaf(pem)


@cache
def _der() -> bytes:
    """One certificate; cached, since each signature is another one."""
    pem = _certificate(7, [x509.UniformResourceIdentifier("spiffe://x/y")])
    return base64.b64decode(b"".join(pem.split()[2:-2]))


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
