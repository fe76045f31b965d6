"""Every limit of the broker, with its unit, its default and where the number comes from.

Law: nothing in the broker is unbounded. Each limit names who loses when it is reached: the connection (refused or
closed), the message (dropped, counted in `metrics`), or the request (refused with a reason code).
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER_EXPIRES = 0xFFFFFFFF
"""Session expiry interval of a session that stays until it is removed (MQTT 5.0, 3.1.2.11.2)."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Limits of one broker; each default has its reason."""

    max_connections: int = 100_000
    """Network connections past CONNECT. One more is answered with 0x97 (3.1.1: return code 3)."""
    max_connections_per_user: int = 100_000
    """Network connections of one user, besides the client that has the user's name as its identifier; by default a
    fleet may share one. One more is answered with 0x97 (3.1.1: return code 3)."""
    max_connections_per_address: int = 50_000
    """Network connections from one remote address (of IPv6 its /64): half of all. A fleet sits behind one address. One
    more is answered with 0x97 (3.1.1: return code 3)."""
    max_sessions: int = 1_000_000
    """Sessions, connected or not, about 1 KiB each. A new one more is answered with 0x97 (3.1.1: return code 3)."""
    connect_timeout: float = 10.0
    """Seconds from the accepted socket to a finished CONNECT, the authenticator's answer included."""
    connect_buffer: int = 64 * 1024
    """Bytes taken from a connection before CONNACK has left: the largest CONNECT, and what may follow it
    meanwhile. A stranger costs no more than this."""
    max_handshakes: int = 20_000
    """CONNECTs whose CONNACK has not left: their credentials are being checked, or their new session is on its way to
    the disk. About 3 KiB each. One more is answered at once, with 0x89 (3.1.1: return code 3): it is better told to
    come back than left in a queue until it gives up and starts again."""
    maximum_packet_size: int = 1024 * 1024
    """Bytes of one packet from an accepted client; announced to 5.0 clients."""
    max_client_id_length: int = 256
    """UTF-8 bytes. 23 is what a server has to allow [MQTT-3.1.3-5]; longer identifiers cost memory only."""

    max_failed_authentications: int = 100
    """Different wrong credentials per remote address and minute; then the refusal of wrong ones from there is a second
    late, until the minute is over. Right ones are let in at once: a fleet sits behind one address, and an attacker may
    sit there too. A password file checks one unknown pair a second from there; more are told to come back (0x9F;
    3.1.1: return code 3)."""

    server_keep_alive: int | None = None
    """Longest keep alive of a 5.0 client, in seconds; one that asks for more, or for none, is told
    [MQTT-3.1.2-21]. A 3.1.1 client cannot be told and has its own. None or 0: no limit."""
    keep_alive_grace: float = 1.5
    """Times the keep alive without a packet until the connection is closed [MQTT-3.1.2-22]."""
    ack_timeout: float = 300.0
    """Seconds a message may be inflight unacknowledged while its client is connected; then the connection is closed."""

    disconnect_spread: float = 2.0
    """Seconds over which the clients are disconnected at a stop, so that they do not return all at once. An upper
    limit: few clients are told at once, and any number at no more than 5,000 a second below it."""

    max_session_expiry: int = 31_536_000
    """Seconds a session outlives its connection at most, also with clean session 0 of 3.1.1: one year.
    0xFFFFFFFF: no limit."""
    max_subscriptions: int = 1_000
    """Per session. One more is answered with 0x97 (3.1.1: 0x80)."""
    max_topic_levels: int = 128
    """Levels of a topic or filter, the depth of both tries. Deeper ones are refused."""

    max_inflight: int = 512
    """Unacknowledged QoS 1 and 2 messages to one client; its receive maximum may lower it."""
    receive_maximum: int = 1_024
    """Unacknowledged QoS 1 and 2 messages from one client, announced in CONNACK [MQTT-3.3.4-9]. A 3.1.1 client, which
    is told nothing, may have `max_pending_answers`."""
    max_pending_answers: int = 65_535
    """Acknowledgements of one connection that wait for the store: as many as there are packet identifiers. Over it the
    connection is closed (0x97); what was not acknowledged is repeated by its client."""
    max_unstored_bytes: int = 4 * 1024 * 1024
    """Payload bytes from one client that wait for the store, or `receive_maximum` acknowledgements that do: above
    either its socket is not read until all of them have left."""
    max_message_rate: float = 10_000.0
    """Packets a second from all connections of one user, acknowledgements of our messages aside; each topic filter of a
    SUBSCRIBE, and each WebSocket frame without a packet, counts as one. Ten seconds' worth may come at once. Over it
    the user's sockets are not read for a while. Of QoS 1 it is about half of what a core does."""
    max_byte_rate: float = 16.0 * 1024 * 1024
    """Bytes a second in those packets, likewise."""
    topic_alias_maximum: int = 16
    """Aliases a 5.0 client may define, per connection, and we define for a client that takes them. Mosquitto and
    most clients use 10 at most."""
    system_interval: int = 10
    """Seconds between two publications of `$SYS/broker/...`; 0: never. The default of mosquitto."""

    max_queued_messages: int = 1_000
    """Ordinary messages that wait for one session (deliveries wait with the embedder); the newest one loses.
    The default of mosquitto."""
    max_queued_bytes: int = 4 * 1024 * 1024
    """Payload bytes of the same queue; the newest message loses."""
    max_queued_messages_total: int = 1_000_000
    """Messages that wait in all session queues together, 90 bytes each and payloads aside; the newest one loses."""
    max_queued_bytes_total: int = 256 * 1024 * 1024
    """Payload bytes of all session queues together, a payload that many sessions wait for once; the newest message
    loses."""
    write_buffer: int = 256 * 1024
    """Bytes written to a socket that the kernel has not taken. Above it the client is a slow consumer: no message goes
    out until a quarter is left; deliveries wait with the embedder, ordinary messages in the session's queue."""
    max_unread_bytes: int = 1024 * 1024
    """Bytes of replies written to a socket above its `write_buffer`; then the connection is closed as a slow
    consumer."""

    max_retained_messages: int = 100_000
    """One more is delivered, but not retained."""
    max_retained_bytes: int = 64 * 1024 * 1024
    """Payload bytes of all retained messages together; the newest one is delivered, but not retained."""
