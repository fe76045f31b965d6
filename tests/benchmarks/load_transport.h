/* What carries a connection's bytes to the server: TCP, TLS, WebSocket, or WebSocket in TLS.
 *
 * To its user a channel is a non-blocking socket: `channel_read` and `channel_write` answer as recv and send do, errno
 * EAGAIN included. Before that the handshakes, in steps. Every packet that is written begins with what `channel_head`
 * says: a WebSocket frame's head, or nothing.
 *
 * TLS: 1.3, each time with a whole handshake (nothing is resumed); whose certificate it is nobody checks.
 * WebSocket: path /mqtt, subprotocol mqtt, binary frames, masked with zeros.
 */
#ifndef LOAD_TRANSPORT_H
#define LOAD_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { CHANNEL_HEAD = 8 }; /* the longest, for up to 65,535 bytes */

struct channel {
    int fd;
    uint8_t step;               /* of the handshakes */
    uint8_t matched, head_size; /* bytes of: the response's beginning and end that have come; `head` */
    uint8_t head[10];           /* of an incoming frame, while it is incomplete */
    uint64_t frame_left;        /* bytes of the incoming frame's payload that are still to come */
    void *tls;
};

/* Provided by the program: says why and ends the process. */
void fail(const char *what);

/* tcp, tls, ws or wss: for all channels. */
void channel_choose(const char *name);

/* Connects to a port of this machine. `number` is the connection's own, from 0. */
void channel_open(struct channel *channel, int port, size_t number);

/* Goes on with the handshakes: true when they are over; false: it is to be called again when the socket is readable. */
bool channel_greet(struct channel *channel);

ssize_t channel_read(struct channel *channel, void *data, size_t size);

/* After a read that got something: read again, because the socket does not show what TLS has taken from it. */
bool channel_pending(const struct channel *channel);

ssize_t channel_write(struct channel *channel, const void *data, size_t length);

/* Puts what goes before a packet of `length` bytes; how many bytes that is. */
size_t channel_head(uint8_t *at, size_t length);

#endif
