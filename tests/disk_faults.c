/* A preloaded library that makes calls on files below $DISK_FAULTS_BELOW fail while $DISK_FAULTS_FILE has lines
   "CALL ERRNO PART": CALL is sync or write, PART is in the path ("-" in every one). Or "delay MILLISECONDS PART": so
   long each sync takes. Made for tests/disk_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fault(const char *call, int fd) {
    const char *control = getenv("DISK_FAULTS_FILE"), *below = getenv("DISK_FAULTS_BELOW");
    char link[64], path[PATH_MAX], rule_call[16], part[256];
    int number, found = 0;
    if (!control || !below) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, below, strlen(below))) return 0;
    FILE *rules = fopen(control, "re");
    if (!rules) return 0;
    while (!found && fscanf(rules, "%15s %d %255s", rule_call, &number, part) == 3)
        if (!strcmp(rule_call, call) && (!strcmp(part, "-") || strstr(path, part))) found = number;
    fclose(rules);
    return found;
}

#define FAILS(call, fd) do { int kept = errno, number = fault(call, fd); errno = kept; \
    if (number) { errno = number; return -1; } } while (0)
#define WAITS(fd) do { int kept = errno, milliseconds = fault("delay", fd); errno = kept; \
    if (milliseconds) usleep(1000 * milliseconds); } while (0)
#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

int fsync(int fd) { REAL(fsync); WAITS(fd); FAILS("sync", fd); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); WAITS(fd); FAILS("sync", fd); return real(fd); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { REAL(pwrite); FAILS("write", fd); return real(fd, bytes, size, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { REAL(pwrite64); FAILS("write", fd); return real(fd, bytes, size, at); }
