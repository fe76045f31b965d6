/* A fleet of MQTT 3.1.1 devices in one thread, fast enough that it is never what is being measured.
 *
 * Every device of the list connects, subscribes to its one topic with QoS 1, and acknowledges every message. The
 * messages come from somebody else, or, with --publish, from one more connection of this process that sends a QoS 1
 * message to every device in turn, at most --window of them unacknowledged by the server.
 *
 *   load_generator --port P --devices FILE --batches 1,1,20 [--publish] [--window W] [--size BYTES] [--timeout S]
 *                  [--rate R] [--connecting N] [--resume] [--deaf] [--transport tcp|tls|ws|wss] [--lossy S]
 *
 * FILE has one line per device: CLIENT_ID USERNAME PASSWORD TOPIC ("-" for no user name or no password).
 * --rate: publish R messages per second, come what may, each with the stamp of the moment when it was due.
 * --connecting: so many CONNECTs unanswered at once. --resume: the sessions have their subscriptions already.
 * --deaf: having said `ready`, nobody reads any more. --lossy: when nothing has come for S seconds, the rest of the batch
 * is taken for lost.
 *
 * A batch of R is R messages to every device. Lines on standard output, each flushed:
 *   connected SECONDS      from the first connection attempt to the last CONNACK
 *   ready
 *   batch R SECONDS        the last message of the batch is acknowledged; SECONDS since its first was published
 *                          (without --publish: since the first arrived; with --resume: since the first attempt)
 * and before each `batch`, if its payloads have what it takes:
 *   latency N P50 P99 MAX  microseconds from the stamp in the payload to its arrival; a stamp is "ts=" and 16 hexadecimal
 *                          digits of CLOCK_REALTIME in nanoseconds
 *   class NAME N SECONDS LOW  messages that say "priority":"NAME"; when the last of them came, and how many of `low`
 *                          had come by then
 *   lost N                 so many did not come (--lossy); the batch ended with the last that did
 * After the last batch the devices stay connected until standard input ends.
 * Exit code 0 when all batches are through, 1 when the time is over or a device was refused or disconnected.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load_transport.h"

enum { CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBACK = 9 };
enum { READ_SIZE = 65536, CLASSES = 4, LOW = 3 };

struct buffer {
    uint8_t *data;
    size_t length, capacity;
};

struct connection {
    struct channel channel;
    bool is_open; /* the handshakes below MQTT are over */
    struct buffer in, out; /* `in`: an incomplete packet; `out`: what the socket did not take */
    char client_id[80], username[80], password[128], topic[160];
};

static int epoll_fd, port = 1883, window = 1000, rate, connecting_at_once = 64;
static bool resuming, deaf;
static size_t payload_size = 200;
static struct connection *devices, publisher;
static size_t device_count, connected, subscribed;
static uint64_t received, published, publish_acknowledged;
static double deadline, first_attempt, first_arrival, loss_seconds;
static uint32_t *latencies; /* microseconds, of this batch */
static size_t latency_count, latency_capacity;
static struct {
    const char *name;
    uint64_t count, low_before;
    double last;
} classes[CLASSES] = {{.name = "critical"}, {.name = "high"}, {.name = "normal"}, {.name = "low"}};
static uint8_t scratch[READ_SIZE];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

void fail(const char *what) {
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
    if (epoll_ctl(epoll_fd, operation, connection->channel.fd, &event)) fail("epoll_ctl failed");
}

static void send_bytes(struct connection *connection, const void *data, size_t length) {
    ssize_t sent = 0;
    if (connection->out.length == 0) {
        sent = channel_write(&connection->channel, data, length);
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
    ssize_t sent = channel_write(&connection->channel, connection->out.data, connection->out.length);
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
    uint8_t header[5] = {first}, packet[2048];
    size_t header_size = 1 + put_length(header + 1, length);
    size_t size = channel_head(packet, header_size + length);
    if (size + header_size + length > sizeof packet) fail("a packet is too long");
    memcpy(packet + size, header, header_size);
    memcpy(packet + size + header_size, body, length);
    send_bytes(connection, packet, size + header_size + length);
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

static void greet(struct connection *connection) {
    connection->is_open = channel_greet(&connection->channel);
    if (connection->is_open) send_connect(connection, connection == &publisher);
}

static void send_subscribe(struct connection *connection) {
    uint8_t body[256] = {0, 1};
    size_t length = 2 + put_string(body + 2, connection->topic);
    body[length++] = 1;
    send_packet(connection, 0x82, body, length);
}

static void send_publish(const struct connection *to, double late) {
    static uint8_t body[2048];
    size_t length = put_string(body, to->topic);
    uint16_t identifier = published % 65535 + 1;
    body[length++] = identifier >> 8;
    body[length++] = identifier;
    memset(body + length, 'x', payload_size);
    if (rate) {
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        char stamp[32];
        int64_t due = time.tv_sec * 1000000000ll + time.tv_nsec - (int64_t)(late * 1e9);
        memcpy(body + length, stamp, snprintf(stamp, sizeof stamp, "ts=%016llx", (long long)due));
    }
    send_packet(&publisher, 0x32, body, length + payload_size);
    published++;
}

static void measure(const uint8_t *payload, size_t length) {
    const uint8_t *stamp = memmem(payload, length, "ts=", 3);
    if (stamp && stamp + 19 <= payload + length) {
        char digits[17] = {0};
        memcpy(digits, stamp + 3, 16);
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        int64_t late = time.tv_sec * 1000000000ll + time.tv_nsec - strtoll(digits, NULL, 16);
        if (latency_count == latency_capacity) {
            latency_capacity = latency_capacity ? latency_capacity * 2 : 65536;
            latencies = realloc(latencies, latency_capacity * sizeof *latencies);
            if (!latencies) fail("out of memory");
        }
        latencies[latency_count++] = late > 0 ? late / 1000 : 0;
    }
    const uint8_t *priority = memmem(payload, length, "\"priority\":\"", 12);
    if (!priority) return;
    for (int i = 0; i < CLASSES; i++)
        if (!memcmp(priority + 12, classes[i].name, strlen(classes[i].name))) {
            classes[i].count++;
            classes[i].low_before = classes[LOW].count;
            classes[i].last = now();
        }
}

static void take_packet(struct connection *connection, uint8_t first, const uint8_t *body, size_t length) {
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
        measure(body, length);
        if (first & 0x06) {
            const uint8_t *identifier = body + 2 + (body[0] << 8 | body[1]);
            send_packet(connection, 0x40, identifier, 2);
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
        take_packet(connection, data[at], data + at + header, size);
        at += header + size;
    }
    return at;
}

/* Whether anything was there. */
static bool read_bytes(struct connection *connection) {
    ssize_t length = channel_read(&connection->channel, scratch, sizeof scratch);
    if (length == 0) fail("the server closed a connection");
    if (length < 0) {
        if (errno != EAGAIN) fail("a connection broke");
        return false;
    }
    if (connection->in.length == 0) {
        size_t taken = take_packets(connection, scratch, length);
        if (taken < (size_t)length) append(&connection->in, scratch + taken, length - taken);
    } else {
        append(&connection->in, scratch, length);
        drop_front(&connection->in, take_packets(connection, connection->in.data, connection->in.length));
    }
    return true;
}

static void serve(struct connection *connection, uint32_t events) {
    if (events & EPOLLOUT) flush(connection);
    if (!(events & ~(uint32_t)EPOLLOUT)) return;
    if (connection->is_open) {
        while (read_bytes(connection) && channel_pending(&connection->channel)) continue;
    } else {
        greet(connection);
    }
}

static void turn(double milliseconds) {
    struct epoll_event events[512];
    struct timespec timeout = {.tv_nsec = (long)(milliseconds * 1e6)};
    int count = epoll_pwait2(epoll_fd, events, 512, &timeout, NULL);
    for (int i = 0; i < count; i++) serve(events[i].data.ptr, events[i].events);
    if (now() > deadline) {
        fprintf(stderr, "load generator: time is over: %zu connected, %zu subscribed, %llu received\n", connected,
                subscribed, (unsigned long long)received);
        exit(1);
    }
}

static void open_connection(struct connection *connection, size_t number) {
    channel_open(&connection->channel, port, number);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    greet(connection);
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
    first_attempt = now();
    for (size_t i = 0; i < device_count; i++) {
        open_connection(&devices[i], i);
        bool full = i + 1 - connected >= (size_t)connecting_at_once;
        do turn(full ? 50 : 0);
        while (i + 1 - connected >= (size_t)connecting_at_once);
    }
    while (connected < device_count) turn(50);
    printf("connected %.6f\n", now() - first_attempt);
    for (size_t i = 0; i < device_count && !resuming; i++) {
        send_subscribe(&devices[i]);
        do turn(0);
        while (i + 1 - subscribed > (size_t)connecting_at_once);
    }
    while (subscribed < device_count && !resuming) turn(50);
    if (!publishing) return;
    strcpy(publisher.client_id, "load-generator");
    strcpy(publisher.username, "-");
    strcpy(publisher.password, "-");
    open_connection(&publisher, 0);
    while (connected < device_count + 1) turn(50);
}

static int compare(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void report(double start) {
    if (latency_count) {
        qsort(latencies, latency_count, sizeof *latencies, compare);
        printf("latency %zu %u %u %u\n", latency_count, latencies[latency_count / 2],
               latencies[latency_count * 99 / 100], latencies[latency_count - 1]);
    }
    for (int i = 0; i < CLASSES; i++)
        if (classes[i].count)
            printf("class %s %llu %.6f %llu\n", classes[i].name, (unsigned long long)classes[i].count,
                   classes[i].last - start, (unsigned long long)classes[i].low_before);
    latency_count = 0;
    for (int i = 0; i < CLASSES; i++) classes[i].count = 0;
}

static void run_batch(int rounds, bool publishing) {
    static uint64_t goal, publish_goal; /* what comes early belongs to its batch all the same */
    goal += (uint64_t)rounds * device_count;
    publish_goal += (uint64_t)rounds * device_count;
    double start = now(), last_arrival = start;
    uint64_t before = published, seen = received;
    while (received < goal) {
        bool more = publishing;
        for (int burst = 0; more && burst < 64; burst++) {
            double late = rate ? now() - start - (published - before) / (double)rate : 0;
            more = published < publish_goal && published < publish_acknowledged + (uint64_t)window && late >= 0;
            if (more) send_publish(&devices[published % device_count], late);
        }
        turn(more ? 0 : rate && published < publish_goal ? 0.1 : 50);
        if (!loss_seconds) continue;
        if (received != seen) {
            seen = received;
            last_arrival = now();
        } else if (now() - last_arrival > loss_seconds) {
            break;
        }
    }
    double end = received < goal ? last_arrival : now();
    if (!publishing) start = resuming ? first_attempt : first_arrival;
    report(start);
    if (received < goal) {
        printf("lost %llu\n", (unsigned long long)(goal - received));
        goal = received; /* the next batch is whole without them */
        publish_goal = publish_acknowledged = published;
    }
    printf("batch %d %.6f\n", rounds, end - start);
    fflush(stdout);
    first_arrival = 0;
}

int main(int count, char **arguments) {
    static const struct option options[] = {{"port", 1, 0, 'p'},    {"devices", 1, 0, 'd'}, {"batches", 1, 0, 'b'},
                                            {"publish", 0, 0, 'P'}, {"window", 1, 0, 'w'},  {"size", 1, 0, 's'},
                                            {"timeout", 1, 0, 't'}, {"connecting", 1, 0, 'c'},
                                            {"rate", 1, 0, 'R'},
                                            {"resume", 0, 0, 'r'},  {"deaf", 0, 0, 'D'},
                                            {"transport", 1, 0, 'T'}, {"lossy", 1, 0, 'L'}, {0}};
    const char *batches = "1", *transport = "tcp";
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
        case 'c': connecting_at_once = atoi(optarg); break;
        case 'R': rate = atoi(optarg); break;
        case 'r': resuming = true; break;
        case 'D': deaf = true; break;
        case 'T': transport = optarg; break;
        case 'L': loss_seconds = atof(optarg); break;
        default: return 2;
        }
    if (!device_count || payload_size > 1024) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < device_count + 16) fail("too few file descriptors: raise the hard limit (ulimit -n)");
    channel_choose(transport);
    epoll_fd = epoll_create1(0);
    deadline = now() + timeout;

    connect_all(publishing);
    printf("ready\n");
    fflush(stdout);
    for (const char *at = batches; *at && !deaf;) {
        char *end;
        run_batch(strtol(at, &end, 10), publishing);
        at = *end ? end + 1 : end;
    }
    while (read(STDIN_FILENO, scratch, sizeof scratch) > 0) continue;
    return 0;
}
