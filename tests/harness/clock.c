/* The clocks of a process, moved by another one. Preloaded into a server, it adds to what the kernel says what stands in
 * the file CG_CLOCK, as 64-bit numbers in microseconds: by how much the wall clock is ahead, by how much the monotonic
 * clock is, and the moments at which the two stand still (0: they run).
 *
 * It asks the kernel itself: the function that it replaces may not be found yet when the first call comes. A server that
 * could read the processor's own counter finds no /proc/cpuinfo here, and so asks for the time as well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t unmoved[4];
static volatile int64_t *moved;

static volatile int64_t *offsets(void) {
    if (!moved) {
        const char *path = getenv("CG_CLOCK");
        int file = path ? open(path, O_RDONLY) : -1;
        void *map = file >= 0 ? mmap(0, sizeof unmoved, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
        if (file >= 0) close(file);
        moved = map == MAP_FAILED ? unmoved : map;
    }
    return moved;
}

static void set(struct timespec *t, int64_t us) {
    t->tv_sec = us / 1000000;
    t->tv_nsec = us % 1000000 * 1000;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, clock, t);
    if (failed) return failed;
    volatile int64_t *by = offsets();
    int64_t us = (int64_t)t->tv_sec * 1000000 + t->tv_nsec / 1000;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        set(t, (by[2] ? by[2] : us) + by[0]);
    } else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_MONOTONIC_COARSE) {
        set(t, (by[3] ? by[3] : us) + by[1]);
    }
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    if (now) {
        now->tv_sec = t.tv_sec;
        now->tv_usec = t.tv_nsec / 1000;
    }
    return 0;
}

time_t time(time_t *now) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (now) *now = t.tv_sec;
    return t.tv_sec;
}

typedef FILE *opener(const char *, const char *);

static FILE *open_unless_processor(const char *name, const char *path, const char *mode) {
    if (!strcmp(path, "/proc/cpuinfo")) {
        errno = ENOENT;
        return 0;
    }
    return ((opener *)dlsym(RTLD_NEXT, name))(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return open_unless_processor("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return open_unless_processor("fopen64", path, mode); }
