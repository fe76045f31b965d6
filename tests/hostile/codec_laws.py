"""Laws of the decoder for any bytes at all, used by both fuzzers."""

from __future__ import annotations

import time
from itertools import pairwise

from broker.protocol.codec import Decoder, encode
from broker.protocol.errors import MqttError
from broker.protocol.packets import V3_1_1, V5, Packet, Puback

MAXIMA = (64, 1024, 268_435_460)
LONGEST = 1.0
"""Seconds of this thread's time for one input."""


class Listener:
    """A sink that remembers each packet with the version in which it was read."""

    def __init__(self, version: int, from_server: bool, maximum: int) -> None:
        self.heard: list[tuple[Packet, int]] = []
        self.error: type[MqttError] | None = None
        self.decoder = Decoder(self, maximum, from_server=from_server)
        self.decoder.version = version

    def puback(self, packet_id: int, reason_code: int) -> None:
        self.packet(Puback(packet_id, reason_code))

    def packet(self, packet: Packet) -> None:
        self.heard.append((packet, self.decoder.version))

    def feed(self, chunk: bytes) -> None:
        try:
            self.decoder.feed(chunk)
        except MqttError as error:
            assert self.error is None, "a second error"
            self.error = type(error)
        assert self.decoder.buffered <= self.decoder.maximum_packet_size, "more is kept than may come"


def check(selector: int, data: bytes) -> int:
    """Selector: bit 0 the version, bit 1 the direction, then the maximum and where the stream is cut. How many packets
    were decoded."""
    began = time.thread_time()
    version = V5 if selector & 1 else V3_1_1
    from_server = bool(selector & 2)
    maximum = MAXIMA[(selector >> 2 & 3) % len(MAXIMA)]
    whole = Listener(version, from_server, maximum)
    whole.feed(data)
    pieces = Listener(version, from_server, maximum)
    for start, end in pairwise(_cuts(selector >> 4, len(data))):
        pieces.feed(data[start:end])
    assert (pieces.heard, pieces.error) == (whole.heard, whole.error), "the cut matters"
    for packet, spoken in whole.heard:
        again = Listener(spoken, from_server, MAXIMA[-1])
        again.feed(encode(packet, spoken))
        assert again.error is None, f"{packet} cannot be read again: {again.error}"
        assert again.heard == [(packet, spoken)], f"{packet} has become {again.heard}"
    spent = time.thread_time() - began
    assert spent < LONGEST, f"{spent:.1f} s"
    return len(whole.heard)


def _cuts(way: int, length: int) -> list[int]:
    if not way % 8 and length <= 64:
        return list(range(length + 1))
    first = way * 7919 % (length + 1)
    second = way * 104_729 % (length + 1)
    return [0, *sorted((first, second)), length]
