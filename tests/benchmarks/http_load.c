/* Requests to one HTTP path over kept connections: as fast as they are answered, or at a fixed rate come what may.
 *
 *   http_load --port P --path PATH --body TEXT [--key KEY] [--connections C] [--requests N] [--rate R]
 *             [--devices D] [--type MEDIA_TYPE] [--transport tcp|tls]
 *
 * In TEXT, each %D becomes a number below D (counting round), each %T the stamp "ts=" and 16 hexadecimal digits: the
 * moment when the request was due, CLOCK_REALTIME in nanoseconds. --body @FILE reads it from a file, %-less.
 * Without --rate a connection sends its next request when the last was answered (closed loop). With it request n is due
 * n / R seconds after the first, and waits for a free connection if there is none; its latency counts from when it was
 * due.
 *
 * One line on standard output: `requests N SECONDS P50 P99 MAX` (microseconds from due to answered).
 * Exit code 1 if one was not answered with 2xx, with the answer on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "load_transport.h"

enum { ANSWER_SIZE = 4 << 20, MAX_CONNECTIONS = 1024 };

struct connection {
    struct channel channel;
    double due; /* of the request that is under way; 0 while free */
    char *answer;
    size_t length;
};

static int epoll_fd, port, rate, device_count = 1, connection_count = 1;
static long requests = 1000, begun, answered;
static const char *path = "/", *key = "", *media_type = "application/json";
static char *body;
static bool is_template = true;
static struct connection connections[MAX_CONNECTIONS];
static uint32_t *latencies;
static double start;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

void fail(const char *what) {
    fprintf(stderr, "HTTP load: %s\n", what);
    exit(1);
}

static void wait_until(struct channel *channel, short events) {
    struct pollfd socket = {.fd = channel->fd, .events = events};
    if (poll(&socket, 1, 10000) != 1) fail("the server does not go on");
}

static void open_connection(struct connection *connection, size_t number) {
    channel_open(&connection->channel, port, number);
    while (!channel_greet(&connection->channel)) wait_until(&connection->channel, POLLIN);
    connection->answer = malloc(ANSWER_SIZE);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (!connection->answer || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->channel.fd, &event))
        fail("epoll_ctl failed");
}

/* The body of request `number`, in a buffer that the next call uses again. */
static const char *render(long number, double due, size_t *length) {
    static char *text;
    static size_t capacity;
    if (!is_template) {
        *length = strlen(body);
        return body;
    }
    if (!text) text = malloc(capacity = strlen(body) * 2 + 4096);
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    int64_t stamp = time.tv_sec * 1000000000ll + time.tv_nsec - (int64_t)((now() - due) * 1e9);
    char *to = text;
    for (const char *from = body; *from; from++) {
        if (to - text + 64 > (long)capacity) fail("the body is too long");
        if (from[0] == '%' && from[1] == 'D') to += sprintf(to, "%ld", number % device_count), from++;
        else if (from[0] == '%' && from[1] == 'T') to += sprintf(to, "ts=%016llx", (long long)stamp), from++;
        else *to++ = *from;
    }
    *length = to - text;
    return text;
}

static void send_all(struct channel *channel, const char *data, size_t length) {
    while (length) {
        ssize_t sent = channel_write(channel, data, length);
        if (sent < 0 && errno == EAGAIN) {
            wait_until(channel, POLLOUT);
            continue;
        }
        if (sent <= 0) fail("a connection broke");
        data += sent;
        length -= sent;
    }
}

static void begin(struct connection *connection, double due) {
    size_t length;
    const char *content = render(begun++, due, &length);
    static char request[65536];
    int size = snprintf(request, 4096,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n"
                        "Content-Length: %zu\r\n\r\n", path, port, key, media_type, length);
    connection->due = due;
    connection->length = 0;
    if (size + length <= sizeof request) { /* one system call, one segment */
        memcpy(request + size, content, length);
        send_all(&connection->channel, request, size + length);
    } else {
        send_all(&connection->channel, request, size);
        send_all(&connection->channel, content, length);
    }
}

/* Whether the answer is all there; of answers with a Content-Length, which ours and uvicorn's have. */
static bool is_complete(struct connection *connection) {
    connection->answer[connection->length] = 0;
    const char *end = strstr(connection->answer, "\r\n\r\n");
    if (!end) return false;
    const char *said = strcasestr(connection->answer, "content-length:");
    if (!said || said > end) fail("an answer does not say its length");
    return connection->length >= (size_t)(end + 4 - connection->answer) + strtoul(said + 15, NULL, 10);
}

/* Whether anything was there. */
static bool read_part(struct connection *connection) {
    ssize_t length = channel_read(&connection->channel, connection->answer + connection->length,
                                  ANSWER_SIZE - 1 - connection->length);
    if (length < 0 && errno == EAGAIN) return false;
    if (length <= 0) fail("the server closed a connection");
    connection->length += length;
    if (!is_complete(connection)) {
        if (connection->length == ANSWER_SIZE - 1) fail("an answer is too long");
        return true;
    }
    if (memcmp(connection->answer + 9, "20", 2)) {
        fprintf(stderr, "%.2000s\n", connection->answer);
        fail("a request was not accepted");
    }
    latencies[answered++] = (now() - connection->due) * 1e6;
    connection->due = 0;
    return true;
}

static void read_answer(struct connection *connection) {
    while (read_part(connection) && channel_pending(&connection->channel)) continue;
}

static int compare(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static char *contents(const char *file_name) {
    FILE *file = fopen(file_name, "r");
    if (!file) fail("cannot open the body");
    fseek(file, 0, SEEK_END);
    size_t size = ftell(file);
    rewind(file);
    char *text = malloc(size + 1);
    if (!text || fread(text, 1, size, file) != size) fail("cannot read the body");
    text[size] = 0;
    fclose(file);
    return text;
}

int main(int count, char **arguments) {
    static const struct option options[] = {{"port", 1, 0, 'p'},    {"path", 1, 0, 'P'},        {"body", 1, 0, 'b'},
                                            {"key", 1, 0, 'k'},     {"connections", 1, 0, 'c'}, {"requests", 1, 0, 'n'},
                                            {"rate", 1, 0, 'r'},    {"devices", 1, 0, 'd'},     {"type", 1, 0, 't'},
                                            {"transport", 1, 0, 'T'}, {0}};
    const char *transport = "tcp";
    for (int option; (option = getopt_long(count, arguments, "", options, 0)) != -1;) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'P': path = optarg; break;
        case 'b':
            is_template = optarg[0] != '@';
            body = is_template ? strdup(optarg) : contents(optarg + 1);
            break;
        case 'k': key = optarg; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'n': requests = atol(optarg); break;
        case 'r': rate = atoi(optarg); break;
        case 'd': device_count = atoi(optarg); break;
        case 't': media_type = optarg; break;
        case 'T': transport = optarg; break;
        default: return 2;
        }
    if (!port || !body || connection_count < 1 || connection_count > MAX_CONNECTIONS || device_count < 1) return 2;
    channel_choose(transport);
    epoll_fd = epoll_create1(0);
    latencies = malloc(requests * sizeof *latencies);
    for (int i = 0; i < connection_count; i++) open_connection(&connections[i], i);
    start = now();
    while (answered < requests) {
        double next = now() + 1; /* when the next request is due; nobody can send it before an answer has come */
        for (int i = 0; i < connection_count && begun < requests; i++) {
            if (connections[i].due) continue;
            next = rate ? start + begun / (double)rate : now();
            if (next > now()) break;
            begin(&connections[i], next);
        }
        struct epoll_event events[256];
        double pause = rate && begun < requests ? next - now() : 1;
        struct timespec timeout = {.tv_sec = pause >= 1, .tv_nsec = pause > 0 && pause < 1 ? (long)(pause * 1e9) : 0};
        int ready = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
        for (int i = 0; i < ready; i++) read_answer(events[i].data.ptr);
        if (now() - start > 300) fail("the time is over");
    }
    double seconds = now() - start;
    qsort(latencies, answered, sizeof *latencies, compare);
    printf("requests %ld %.6f %u %u %u\n", answered, seconds, latencies[answered / 2], latencies[answered * 99 / 100],
           latencies[answered - 1]);
    return 0;
}
