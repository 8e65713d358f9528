"""When a certificate ends. Python's own `ssl` tells that of a peer's certificate only, or of an authority's."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def expiry_of(pem: str) -> float:
    """`notAfter` of the first certificate in a PEM text, in seconds since the epoch.

    Raises:
        ValueError: There is none.
    """
    start, end = pem.find(_BEGIN), pem.find(_END)
    if start < 0 or end < start:
        raise ValueError("there is no certificate")
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    try:
        return _not_after(der)
    except IndexError:
        raise ValueError("the certificate is cut short") from None


def _not_after(der: bytes) -> float:
    """By RFC 5280, 4.1: Certificate > tbsCertificate > [version], serial, signature, issuer, validity."""
    _, certificate, _ = _element(der, 0)
    _, body, _ = _element(certificate, 0)
    tag, _, after = _element(body, 0)
    position = after if tag == _VERSION else 0
    for _ in range(3):
        _, _, position = _element(body, position)
    _, validity, _ = _element(body, position)
    _, _, after = _element(validity, 0)
    tag, text, _ = _element(validity, after)
    return _time(tag, text.decode("ascii", errors="replace"))


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag and content of the DER element at a position, and where the next one begins."""
    tag, length, position = data[position], data[position + 1], position + 2
    if length & 0x80:
        count = length & 0x7F
        length, position = int.from_bytes(data[position : position + count]), position + count
    if position + length > len(data):
        raise IndexError(position)
    return tag, data[position : position + length], position + length


def _time(tag: int, text: str) -> float:
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"tag {tag:#x} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
