/* See load_transport.h. Compiled with -DWITH_TLS it needs OpenSSL. */
#define _GNU_SOURCE
#include "load_transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { PER_SOURCE_ADDRESS = 20000, BINARY = 0x82 };
enum { TLS_HANDSHAKE, UPGRADE, OPEN };

static bool with_tls, with_frames;
#ifdef WITH_TLS
static SSL_CTX *context;
#endif

void channel_choose(const char *name) {
    with_tls = !strcmp(name, "tls") || !strcmp(name, "wss");
    with_frames = !strcmp(name, "ws") || !strcmp(name, "wss");
    if (!with_tls && !with_frames && strcmp(name, "tcp")) fail("the transport is tcp, tls, ws or wss");
    if (!with_tls) return;
#ifdef WITH_TLS
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION)) fail("no TLS 1.3");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    /* Idle connections keep no buffers; a write may be partial and repeated from elsewhere, as with send. */
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1); /* one system call for a record, not two */
#else
    fail("built without TLS");
#endif
}

void channel_open(struct channel *channel, int port, size_t number) {
    *channel = (struct channel){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET};
    /* Addresses of its own for each process, 127.PID.PID.N: an address has 28,000 ports, and the kernel takes twice as
     * long to find a free one when an earlier fleet has just left thousands of them to the same server. */
    in_addr_t source = 127u << 24 | (getpid() & 0xffff) << 8 | (1 + number / PER_SOURCE_ADDRESS);
    address.sin_addr.s_addr = htonl(source);
    int on = 1;
    setsockopt(channel->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(channel->fd, (struct sockaddr *)&address, sizeof address)) fail("bind failed");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (connect(channel->fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect");
    setsockopt(channel->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(channel->fd, F_SETFL, O_NONBLOCK);
#ifdef WITH_TLS
    if (!with_tls) return;
    channel->tls = SSL_new(context);
    if (!channel->tls || !SSL_set_fd(channel->tls, channel->fd)) fail("out of memory");
    SSL_set_connect_state(channel->tls);
#endif
}

/* Bytes of the stream below the frames. */

#ifdef WITH_TLS
static ssize_t tls_result(SSL *tls, int result) {
    switch (SSL_get_error(tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SSL:
        fprintf(stderr, "TLS: %s\n", ERR_reason_error_string(ERR_peek_error()));
        errno = EPROTO;
        return -1;
    default: /* errno says it, or nothing does: hung up without a goodbye */
        return errno && errno != EAGAIN ? -1 : 0;
    }
}
#endif

static ssize_t stream_read(struct channel *channel, void *data, size_t size) {
#ifdef WITH_TLS
    if (channel->tls) {
        int length = SSL_read(channel->tls, data, size);
        return length > 0 ? length : tls_result(channel->tls, length);
    }
#endif
    return recv(channel->fd, data, size, 0);
}

ssize_t channel_write(struct channel *channel, const void *data, size_t length) {
#ifdef WITH_TLS
    if (channel->tls) {
        int written = SSL_write(channel->tls, data, length);
        return written > 0 ? written : tls_result(channel->tls, written);
    }
#endif
    return send(channel->fd, data, length, MSG_NOSIGNAL);
}

bool channel_pending(const struct channel *channel) {
#ifdef WITH_TLS
    if (channel->tls) return SSL_has_pending(channel->tls);
#endif
    (void)channel;
    return false;
}

/* Handshakes. */

static void ask_for_upgrade(struct channel *channel) {
    static const char request[] = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    if (channel_write(channel, request, sizeof request - 1) != sizeof request - 1) fail("an upgrade could not be sent");
}

/* Whether the whole response has come, and is the right one. */
static bool is_upgraded(struct channel *channel) {
    static const char begin[] = "HTTP/1.1 101", end[] = "\r\n\r\n";
    enum { BEGINNING = sizeof begin - 1, WHOLE = sizeof begin - 1 + sizeof end - 1 };
    char response[1024];
    ssize_t length = stream_read(channel, response, sizeof response);
    if (length == 0 || (length < 0 && errno != EAGAIN)) fail("the server closed a connection instead of an upgrade");
    for (ssize_t i = 0; i < length; i++) {
        if (channel->matched == WHOLE) fail("the server spoke first");
        if (channel->matched < BEGINNING) {
            if (response[i] != begin[channel->matched++]) fail("an upgrade was refused");
        } else if (response[i] == end[channel->matched - BEGINNING]) {
            channel->matched++;
        } else {
            channel->matched = BEGINNING + (response[i] == end[0]);
        }
    }
    return channel->matched == WHOLE;
}

bool channel_greet(struct channel *channel) {
    switch (channel->step) {
    case TLS_HANDSHAKE:
#ifdef WITH_TLS
        if (channel->tls) {
            int done = SSL_do_handshake(channel->tls);
            if (done != 1) {
                if (tls_result(channel->tls, done) >= 0 || errno != EAGAIN) fail("a TLS handshake failed");
                return false;
            }
        }
#endif
        if (with_frames) ask_for_upgrade(channel);
        channel->step = with_frames ? UPGRADE : OPEN;
        return !with_frames;
    case UPGRADE:
        if (!is_upgraded(channel)) return false;
        channel->step = OPEN;
        return true;
    default:
        return true;
    }
}

/* Frames. */

size_t channel_head(uint8_t *at, size_t length) {
    if (!with_frames) return 0;
    memset(at, 0, CHANNEL_HEAD); /* the mask as well */
    at[0] = BINARY;
    if (length < 126) {
        at[1] = 0x80 | length;
        return 6;
    }
    at[1] = 0x80 | 126;
    at[2] = length >> 8;
    at[3] = length;
    return 8;
}

/* Bytes of the whole head that begins with these; 2 while it is not known. */
static size_t head_wanted(const uint8_t *head, size_t size) {
    if (size < 2) return 2;
    return head[1] == 126 ? 4 : head[1] == 127 ? 10 : 2;
}

static void begin_frame(struct channel *channel) {
    const uint8_t *head = channel->head;
    uint8_t opcode = head[0] & 0x0f;
    if (opcode == 8) fail("the server closed a WebSocket");
    if (opcode > 2 || opcode == 1 || head[1] & 0x80) fail("a frame is not binary");
    channel->frame_left = head[1];
    if (head[1] >= 126) {
        channel->frame_left = 0;
        for (int i = 2; i < channel->head_size; i++) channel->frame_left = channel->frame_left << 8 | head[i];
    }
    channel->head_size = 0;
}

/* Leaves of the bytes that came what is payload; how many bytes that is. */
static size_t unframe(struct channel *channel, uint8_t *data, size_t length) {
    size_t kept = 0;
    for (size_t at = 0; at < length;) {
        if (channel->frame_left) {
            size_t size = length - at < channel->frame_left ? length - at : channel->frame_left;
            memmove(data + kept, data + at, size);
            kept += size;
            at += size;
            channel->frame_left -= size;
            continue;
        }
        channel->head[channel->head_size++] = data[at++];
        if (channel->head_size >= 2 && channel->head_size == head_wanted(channel->head, channel->head_size))
            begin_frame(channel);
    }
    return kept;
}

ssize_t channel_read(struct channel *channel, void *data, size_t size) {
    ssize_t length = stream_read(channel, data, size);
    if (length <= 0 || !with_frames) return length;
    length = unframe(channel, data, length);
    if (length) return length;
    errno = EAGAIN;
    return -1;
}
