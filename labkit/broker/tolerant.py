"""A connection that can read every message, whatever is in its headers.

Pika can't read each header that a broker delivers: a timestamp in milliseconds (beyond the year
9999), a table nested a thousand deep. It then takes the connection for lost. The message comes
back with the next one, and whoever consumes never gets past it.
"""

from __future__ import annotations

import struct
from typing import Any

from pika import data, frame, spec
from pika.adapters.select_connection import SelectConnection

#: How many bytes a value of each type has behind its type, where that is fixed. The others begin
#: with their length in four bytes. https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
FIXED_SIZES = {b"V": 0, b"D": 5} | {
    kind.encode(): size
    for kinds, size in {"tbB": 1, "Uus": 2, "Iif": 4, "LldT": 8}.items()
    for kind in kinds
}


class TolerantConnection(SelectConnection):  # type: ignore[misc]  # pika has no types
    """Pika's connection, which leaves a header's value as bytes where pika can't read it."""

    def _read_frame(self) -> tuple[int, Any]:
        try:
            found: tuple[int, Any] = super()._read_frame()
        except Exception:
            kind, channel, size = struct.unpack_from(">BHL", self._frame_buffer)
            if kind != spec.FRAME_HEADER:
                raise
            end = spec.FRAME_HEADER_SIZE + size
            payload = bytes(self._frame_buffer[spec.FRAME_HEADER_SIZE : end])
            _, _, body_size = struct.unpack_from(">HHQ", payload)
            header = frame.Header(channel, body_size, properties(payload[12:]))
            return end + spec.FRAME_END_SIZE, header
        return found


def properties(encoded: bytes) -> spec.BasicProperties:
    """A message's properties as they go over the wire, with the headers that can be read.

    Raises:
        Exception: something else than a header's value is wrong.
    """
    flags = struct.unpack_from(">H", encoded)[0]
    start = 2
    for flag in (
        spec.BasicProperties.FLAG_CONTENT_TYPE,
        spec.BasicProperties.FLAG_CONTENT_ENCODING,
    ):
        if flags & flag:
            start += 1 + encoded[start]
    headers = start + 4
    end = headers + struct.unpack_from(">I", encoded, start)[0]
    others = struct.pack(">H", flags & ~spec.BasicProperties.FLAG_HEADERS)
    found = spec.BasicProperties()
    found.decode(others + encoded[2:start] + encoded[end:])
    found.headers = table(encoded[headers:end])
    return found


def table(encoded: bytes) -> dict[str | bytes, Any]:
    """A header table; a value that can't be read is given as the bytes of its type and itself."""
    found: dict[str | bytes, Any] = {}
    start = 0
    while start < len(encoded):
        name, start = data.decode_short_string(encoded, start)
        kind = encoded[start : start + 1]
        size = FIXED_SIZES.get(kind)
        if size is None:
            size = 4 + int(struct.unpack_from(">I", encoded, start + 1)[0])
        value = encoded[start : start + 1 + size]
        start += 1 + size
        try:
            found[name], _ = data.decode_value(value, 0)
        except Exception:
            found[name] = value
    return found
