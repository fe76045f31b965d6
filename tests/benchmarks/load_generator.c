/* A fleet of MQTT 3.1.1 devices in one thread, fast enough that it is never what is being measured.
 *
 * Every device of the list connects, subscribes to its one topic with QoS 1, and acknowledges every message. The
 * messages come from somebody else, or, with --publish, from one more connection of this process that sends a QoS 1
 * message to every device in turn, at most --window of them unacknowledged by the server.
 *
 *   load_generator --port P --devices FILE --batches 1,1,20 [--publish] [--window W] [--size BYTES] [--timeout S]
 *
 * FILE has one line per device: CLIENT_ID USERNAME PASSWORD TOPIC ("-" for no user name or no password).
 * A batch of R is R messages to every device. Lines on standard output, each flushed:
 *   ready
 *   batch R SECONDS        the last message of the batch is acknowledged; SECONDS since its first was published
 *                          (without --publish: since the first arrived)
 * After the last batch the devices stay connected until standard input ends.
 * Exit code 0 when all batches are through, 1 when the time is over or a device was refused or disconnected.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBACK = 9 };
enum { READ_SIZE = 65536, MAX_BATCHES = 64, CONNECTING_AT_ONCE = 64, PER_SOURCE_ADDRESS = 20000 };

struct buffer {
    uint8_t *data;
    size_t length, capacity;
};

struct connection {
    int fd;
    struct buffer in, out; /* `in`: an incomplete packet; `out`: what the socket did not take */
    char client_id[80], username[80], password[128], topic[160];
};

static int epoll_fd, port = 1883, window = 1000;
static size_t payload_size = 200;
static struct connection *devices, publisher;
static size_t device_count, connected, subscribed;
static uint64_t received, published, publish_acknowledged;
static double deadline, first_arrival;
static uint8_t scratch[READ_SIZE];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "load generator: %s\n", what);
    exit(1);
}

static void append(struct buffer *buffer, const void *data, size_t length) {
    if (buffer->length + length > buffer->capacity) {
        buffer->capacity = (buffer->length + length) * 2;
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data) fail("out of memory");
    }
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static void drop_front(struct buffer *buffer, size_t length) {
    buffer->length -= length;
    memmove(buffer->data, buffer->data + length, buffer->length);
    if (buffer->length == 0) { /* ten thousand idle devices should not keep ten thousand buffers */
        free(buffer->data);
        *buffer = (struct buffer){0};
    }
}

static void watch(struct connection *connection, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event)) fail("epoll_ctl failed");
}

static void send_bytes(struct connection *connection, const void *data, size_t length) {
    ssize_t sent = 0;
    if (connection->out.length == 0) {
        sent = send(connection->fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) fail("a connection broke");
            sent = 0;
        }
    }
    if ((size_t)sent == length) return;
    if (connection->out.length == 0) watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    append(&connection->out, (const uint8_t *)data + sent, length - sent);
}

static void flush(struct connection *connection) {
    ssize_t sent = send(connection->fd, connection->out.data, connection->out.length, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) fail("a connection broke");
        return;
    }
    drop_front(&connection->out, sent);
    if (connection->out.length == 0) watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

/* Packets. */

static size_t put_length(uint8_t *at, size_t length) {
    size_t size = 0;
    do {
        at[size] = length % 128;
        length /= 128;
        if (length) at[size] |= 128;
        size++;
    } while (length);
    return size;
}

static size_t put_string(uint8_t *at, const char *string) {
    size_t length = strlen(string);
    at[0] = length >> 8;
    at[1] = length;
    memcpy(at + 2, string, length);
    return length + 2;
}

static void send_packet(struct connection *connection, uint8_t first, const uint8_t *body, size_t length) {
    uint8_t packet[2048];
    packet[0] = first;
    size_t header = 1 + put_length(packet + 1, length);
    if (header + length > sizeof packet) fail("a packet is too long");
    memcpy(packet + header, body, length);
    send_bytes(connection, packet, header + length);
}

static void send_connect(struct connection *connection, bool clean) {
    bool named = strcmp(connection->username, "-"), secret = strcmp(connection->password, "-");
    uint8_t body[512];
    size_t length = put_string(body, "MQTT");
    body[length++] = 4;
    body[length++] = (clean ? 0x02 : 0) | (named ? 0x80 : 0) | (secret ? 0x40 : 0);
    body[length++] = 0; /* no keep alive */
    body[length++] = 0;
    length += put_string(body + length, connection->client_id);
    if (named) length += put_string(body + length, connection->username);
    if (secret) length += put_string(body + length, connection->password);
    send_packet(connection, 0x10, body, length);
}

static void send_subscribe(struct connection *connection) {
    uint8_t body[256] = {0, 1};
    size_t length = 2 + put_string(body + 2, connection->topic);
    body[length++] = 1;
    send_packet(connection, 0x82, body, length);
}

static void send_publish(const struct connection *to) {
    static uint8_t body[2048];
    size_t length = put_string(body, to->topic);
    uint16_t identifier = published % 65535 + 1;
    body[length++] = identifier >> 8;
    body[length++] = identifier;
    memset(body + length, 'x', payload_size);
    send_packet(&publisher, 0x32, body, length + payload_size);
    published++;
}

static void take_packet(struct connection *connection, uint8_t first, const uint8_t *body) {
    switch (first >> 4) {
    case CONNACK:
        if (body[1]) fail("a connection was refused");
        connected++;
        break;
    case SUBACK:
        if (body[2] > 2) fail("a subscription was refused");
        subscribed++;
        break;
    case PUBACK:
        publish_acknowledged++;
        break;
    case PUBLISH:
        if (!first_arrival) first_arrival = now();
        received++;
        if (first & 0x06) {
            const uint8_t *identifier = body + 2 + (body[0] << 8 | body[1]);
            uint8_t puback[] = {0x40, 2, identifier[0], identifier[1]};
            send_bytes(connection, puback, sizeof puback);
        }
        break;
    default:
        break;
    }
}

/* Takes all complete packets; how many bytes they were. */
static size_t take_packets(struct connection *connection, const uint8_t *data, size_t length) {
    size_t at = 0;
    while (length - at >= 2) {
        size_t size = 0, header = 1;
        int shift = 0;
        uint8_t byte;
        do {
            if (at + header >= length) return at;
            byte = data[at + header++];
            size |= (size_t)(byte & 127) << shift;
            shift += 7;
        } while (byte & 128);
        if (length - at < header + size) return at;
        take_packet(connection, data[at], data + at + header);
        at += header + size;
    }
    return at;
}

static void read_bytes(struct connection *connection) {
    ssize_t length = recv(connection->fd, scratch, sizeof scratch, 0);
    if (length == 0) fail("the server closed a connection");
    if (length < 0) {
        if (errno != EAGAIN) fail("a connection broke");
        return;
    }
    if (connection->in.length == 0) {
        size_t taken = take_packets(connection, scratch, length);
        if (taken < (size_t)length) append(&connection->in, scratch + taken, length - taken);
    } else {
        append(&connection->in, scratch, length);
        drop_front(&connection->in, take_packets(connection, connection->in.data, connection->in.length));
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[512];
    int count = epoll_wait(epoll_fd, events, 512, milliseconds);
    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) flush(connection);
        if (events[i].events & ~(uint32_t)EPOLLOUT) read_bytes(connection);
    }
    if (now() > deadline) {
        fprintf(stderr, "load generator: time is over: %zu connected, %zu subscribed, %llu received\n", connected,
                subscribed, (unsigned long long)received);
        exit(1);
    }
}

static void open_connection(struct connection *connection, size_t number) {
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (device_count > PER_SOURCE_ADDRESS) { /* one address has 28,000 ports */
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number / PER_SOURCE_ADDRESS);
        if (bind(connection->fd, (struct sockaddr *)&address, sizeof address)) fail("bind failed");
    }
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect");
    int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
}

static void read_devices(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail("cannot open the list of devices");
    struct connection device = {0};
    while (fscanf(file, "%79s %79s %127s %159s", device.client_id, device.username, device.password, device.topic) == 4) {
        devices = realloc(devices, (device_count + 1) * sizeof *devices);
        if (!devices) fail("out of memory");
        devices[device_count++] = device;
    }
    fclose(file);
    if (!device_count) fail("the list of devices is empty");
}

static void connect_all(bool publishing) {
    for (size_t i = 0; i < device_count; i++) {
        open_connection(&devices[i], i);
        send_connect(&devices[i], false);
        do turn(0);
        while (i + 1 - connected > CONNECTING_AT_ONCE);
    }
    while (connected < device_count) turn(50);
    for (size_t i = 0; i < device_count; i++) {
        send_subscribe(&devices[i]);
        do turn(0);
        while (i + 1 - subscribed > CONNECTING_AT_ONCE);
    }
    while (subscribed < device_count) turn(50);
    if (!publishing) return;
    strcpy(publisher.client_id, "load-generator");
    strcpy(publisher.username, "-");
    strcpy(publisher.password, "-");
    open_connection(&publisher, 0);
    send_connect(&publisher, true);
    while (connected < device_count + 1) turn(50);
}

static void run_batch(int rounds, bool publishing) {
    uint64_t goal = received + (uint64_t)rounds * device_count;
    uint64_t publish_goal = published + (uint64_t)rounds * device_count;
    first_arrival = 0;
    double start = now();
    while (received < goal) {
        for (int burst = 0; publishing && burst < 64 && published < publish_goal; burst++) {
            if (published - publish_acknowledged >= (uint64_t)window) break;
            send_publish(&devices[published % device_count]);
        }
        bool more = publishing && published < publish_goal && published - publish_acknowledged < (uint64_t)window;
        turn(more ? 0 : 50);
    }
    printf("batch %d %.6f\n", rounds, now() - (publishing ? start : first_arrival));
    fflush(stdout);
}

int main(int count, char **arguments) {
    static const struct option options[] = {{"port", 1, 0, 'p'},    {"devices", 1, 0, 'd'}, {"batches", 1, 0, 'b'},
                                            {"publish", 0, 0, 'P'}, {"window", 1, 0, 'w'},  {"size", 1, 0, 's'},
                                            {"timeout", 1, 0, 't'}, {0}};
    const char *batches = "1";
    bool publishing = false;
    double timeout = 60;
    for (int option; (option = getopt_long(count, arguments, "", options, 0)) != -1;) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'd': read_devices(optarg); break;
        case 'b': batches = optarg; break;
        case 'P': publishing = true; break;
        case 'w': window = atoi(optarg); break;
        case 's': payload_size = atoi(optarg); break;
        case 't': timeout = atof(optarg); break;
        default: return 2;
        }
    if (!device_count || payload_size > 1024) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < device_count + 16) fail("too few file descriptors: raise the hard limit (ulimit -n)");
    epoll_fd = epoll_create1(0);
    deadline = now() + timeout;

    connect_all(publishing);
    printf("ready\n");
    fflush(stdout);
    for (const char *at = batches; *at;) {
        char *end;
        run_batch(strtol(at, &end, 10), publishing);
        at = *end ? end + 1 : end;
    }
    while (read(STDIN_FILENO, scratch, sizeof scratch) > 0) continue;
    return 0;
}
