/* The floor: what the kernel alone costs. A server that parses nothing, keeps nothing and stores nothing.
 *
 * It accepts DEVICES connections, answers CONNECT and SUBSCRIBE with constants, and then runs its batches: R rounds, in
 * each of which it sends one prebuilt QoS 1 PUBLISH to every device, at most WINDOW of them unacknowledged, and reads
 * the acknowledgements as bytes. One system call per message and per acknowledgement is the least a server can do.
 *
 *   floor DEVICES SIZE WINDOW BATCHES        (BATCHES like 1,1,20)
 *
 * Lines on standard output, each flushed: `port P` when it listens, `batch R SECONDS` after each batch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PUBACK_SIZE = 4, BACKLOG = 4096 };

static int epoll_fd, listener;
static int *fds; /* in the order of their SUBSCRIBE */
static int device_count, subscribed, measuring;
static uint64_t acknowledged;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "floor: %s\n", what);
    exit(1);
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl failed");
}

static void answer(int fd, const void *data, size_t length) {
    if (send(fd, data, length, MSG_NOSIGNAL) != (ssize_t)length) fail("a device does not read");
}

static void serve(int fd) {
    static uint8_t data[65536];
    if (fd == listener) {
        int accepted = accept4(listener, 0, 0, SOCK_NONBLOCK), on = 1;
        if (accepted < 0) fail("accept failed");
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(accepted);
        return;
    }
    ssize_t length = recv(fd, data, sizeof data, 0);
    if (length <= 0) fail("a device went away");
    if (measuring) {
        acknowledged += length / PUBACK_SIZE;
    } else if (data[0] == 0x10) {
        answer(fd, "\x20\x02\x00\x00", 4);
    } else if (data[0] == 0x82) {
        uint8_t suback[] = {0x90, 3, data[2], data[3], 1};
        answer(fd, suback, sizeof suback);
        fds[subscribed++] = fd;
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[512];
    int count = epoll_wait(epoll_fd, events, 512, milliseconds);
    for (int i = 0; i < count; i++) serve(events[i].data.fd);
}

static size_t build_publish(uint8_t *packet, size_t size) {
    static const char topic[] = "default/devices/kiosk-1/push";
    size_t length = 2 + strlen(topic) + 2 + size, at = 1;
    packet[0] = 0x32;
    packet[at++] = length % 128 | 128;
    packet[at++] = length / 128;
    packet[at++] = 0;
    packet[at++] = strlen(topic);
    memcpy(packet + at, topic, strlen(topic));
    at += strlen(topic);
    packet[at++] = 0;
    packet[at++] = 1;
    memset(packet + at, 'x', size);
    return at + size;
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    device_count = atoi(arguments[1]);
    size_t size = atoi(arguments[2]);
    uint64_t window = atoi(arguments[3]);
    if (size < 128 || size > 1024) return 2; /* two bytes of remaining length, see build_publish */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    fds = calloc(device_count, sizeof *fds);
    epoll_fd = epoll_create1(0);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, BACKLOG)) fail("cannot listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    watch(listener);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (subscribed < device_count) turn(1000);
    usleep(300000); /* the devices' side settles */
    measuring = 1;

    uint8_t packet[2048];
    size_t packet_size = build_publish(packet, size);
    uint64_t sent = 0, goal = 0;
    for (const char *at = arguments[4]; *at;) {
        char *end;
        int rounds = strtol(at, &end, 10);
        at = *end ? end + 1 : end;
        goal += (uint64_t)rounds * device_count;
        double start = now();
        while (acknowledged < goal) {
            for (int burst = 0; burst < 256 && sent < goal && sent - acknowledged < window; burst++, sent++)
                answer(fds[sent % device_count], packet, packet_size);
            turn(sent < goal && sent - acknowledged < window ? 0 : 1000);
        }
        printf("batch %d %.6f\n", rounds, now() - start);
        fflush(stdout);
    }
    return 0;
}
