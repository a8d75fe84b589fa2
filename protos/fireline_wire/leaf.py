"""Read the serial number and the URIs of a certificate that TLS has verified, and nothing else.

By hand, since this is all that a serving agent ever needs to know of a certificate, and the library that knows
everything costs a third as much memory as the whole agent. It trusts nothing: a certificate in any other form than
DER has for these fields is an error. Making and verifying certificates is left to others (chain, the controller's
pki).

Sources: RFC 5280, sections 4.1 and 4.2.1.6; ITU-T X.690, sections 8 and 10 (DER).
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"

_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_OBJECT_ID: Final = 0x06
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0  # [0], tbsCertificate
_EXTENSIONS: Final = 0xA3  # [3], tbsCertificate
_URI: Final = 0x86  # [6], GeneralName
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")  # 2.5.29.17


@dataclass(frozen=True)
class Leaf:
    """What a certificate says. The serial number is lower-case hexadecimal without leading zeros."""

    serial_hex: str
    uris: tuple[str, ...]


class _Element(NamedTuple):
    tag: int
    content: bytes


def read_leaf(chain_pem: bytes) -> Leaf:
    """Read the first certificate of a chain in PEM.

    Raises:
        ValueError: it is no certificate in PEM, or not in the form that DER has.
    """
    body, end, _ = chain_pem.partition(_BEGIN)[2].partition(_END)
    if not end:
        raise ValueError("no certificate in PEM")
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise ValueError("a certificate in PEM that is no base64") from None
    (certificate,) = _only(der, _SEQUENCE)
    fields = list(_elements(_first(certificate.content, _SEQUENCE).content))
    if fields and fields[0].tag == _VERSION:
        del fields[0]
    if not fields or fields[0].tag != _INTEGER:
        raise ValueError("a certificate without a serial number")
    serial = int.from_bytes(fields[0].content, signed=True)
    if serial <= 0:
        raise ValueError("a certificate whose serial number is not positive")
    return Leaf(format(serial, "x"), tuple(_uris(fields)))


def _uris(fields: list[_Element]) -> Iterator[str]:
    for wrapper in (f for f in fields if f.tag == _EXTENSIONS):
        for extension in _elements(_first(wrapper.content, _SEQUENCE).content):
            parts = list(_elements(extension.content))
            if parts and parts[0] == (_OBJECT_ID, _SUBJECT_ALT_NAME):
                yield from _uris_of(parts[-1])


def _uris_of(value: _Element) -> Iterator[str]:
    if value.tag != _OCTETS:
        raise ValueError("a certificate whose subject alternative names are malformed")
    (names,) = _only(value.content, _SEQUENCE)
    for name in _elements(names.content):
        if name.tag == _URI:
            yield name.content.decode("ascii")


def _only(data: bytes, tag: int) -> tuple[_Element]:
    found = list(_elements(data))
    if len(found) != 1 or found[0].tag != tag:
        raise ValueError(f"a certificate with {len(found)} elements where one of type {tag:#x} should be")
    return (found[0],)


def _first(data: bytes, tag: int) -> _Element:
    for found in _elements(data):
        if found.tag == tag:
            return found
        break
    raise ValueError(f"a certificate without the element of type {tag:#x} that should come first")


def _elements(data: bytes) -> Iterator[_Element]:
    """The elements that stand one after another; they must fill the data exactly."""
    place = 0
    while place < len(data):
        start, length = _length(data, place + 1)
        if start + length > len(data):
            raise ValueError("a certificate that is shorter than it says")
        yield _Element(data[place], data[start : start + length])
        place = start + length


def _length(data: bytes, place: int) -> tuple[int, int]:
    """Where the content starts and how long it is. DER: the shortest form, never indefinite."""
    if place >= len(data):
        raise ValueError("a certificate that ends in the middle")
    first = data[place]
    if first < 0x80:
        return place + 1, first
    size = first & 0x7F
    length = int.from_bytes(data[place + 1 : place + 1 + size])
    if not 1 <= size <= 4 or place + 1 + size > len(data) or length < 0x80 or length >> (8 * (size - 1)) == 0:
        raise ValueError("a certificate with a length that is not in DER")
    return place + 1 + size, length
