"""Payloads for RESTORE made by hand: any fields of a module's value, with a footer that fits."""

HEADER_BYTES = 10  # the kind of value, and the type's id with its encoding version
FOOTER_BYTES = 10  # the RDB version and the checksum
ENCODING_BITS = 10
UNSIGNED, STRING, END = 2, 5, b"\x00"


def crc64_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x95AC9329AC4BC9B5 if n & 1 else n >> 1
        table.append(n)
    return table


CRC64_TABLE = crc64_table()


def crc64(data: bytes) -> int:
    """CRC-64/Jones, reflected, from 0, as Redis uses it."""
    crc = 0
    for byte in data:
        crc = CRC64_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def signed(sample: bytes, body: bytes) -> bytes:
    """The body with a footer as this server writes it, of which `sample` is a payload."""
    body += sample[-FOOTER_BYTES:-8]
    return body + crc64(body).to_bytes(8, "little")


def length(n: int) -> bytes:
    if n < 64:
        return bytes([n])
    if n < 1 << 14:
        return (n | 0x4000).to_bytes(2, "big")
    return b"\x80" + n.to_bytes(4, "big") if n < 1 << 32 else b"\x81" + n.to_bytes(8, "big")


def body_of(sample: bytes, fields: list[int | bytes], encoding: int | None = None) -> bytes:
    """A value of the type of `sample`, with other fields."""
    header = sample[:HEADER_BYTES]
    if encoding is not None:
        type_id = int.from_bytes(header[2:], "big") >> ENCODING_BITS << ENCODING_BITS | encoding
        header = header[:2] + type_id.to_bytes(8, "big")
    parts = [
        bytes([STRING]) + length(len(field)) + field if isinstance(field, bytes) else bytes([UNSIGNED]) + length(field)
        for field in fields
    ]
    return header + b"".join(parts) + END
