// Lets the wall clock of one process jump: loaded before it, every question for the time of day is answered with the
// real one plus the seconds that stand in the file that DRIFTLINE_TEST_CLOCK names.
//
// Waits until a moment of that clock follow a jump as the kernel's do: forward, those whose moment has passed end; back,
// they last longer by as much. Waits for a length of time, and the clock that only counts, know of no jump.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

// How often a wait looks whether the clock has jumped, and one that outlasts its moment.
enum { LOOK_NS = 50 * 1000 * 1000, LATE_NS = 500 * 1000 * 1000, SECOND_NS = 1000 * 1000 * 1000 };

static const int64_t *jump;

__attribute__((constructor)) static void open_file(void) {
    const char *path = getenv("DRIFTLINE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *bytes = mmap(NULL, sizeof *jump, PROT_READ, MAP_SHARED, file, 0);
    if (bytes != MAP_FAILED)
        jump = bytes;
    close(file);
}

static int64_t jumped(void) {
    return jump ? __atomic_load_n(jump, __ATOMIC_RELAXED) : 0;
}

static struct timespec real_time(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return now;
}

static int before(struct timespec a, struct timespec b) {
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jumped();
    return failed;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time = real_time();
    now->tv_sec = time.tv_sec + jumped();
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    time_t seconds = real_time().tv_sec + jumped();
    if (now)
        *now = seconds;
    return seconds;
}

// A wait of one kind: until `moment` of the real clock.
typedef int Wait(void *a, void *b, const struct timespec *moment);

// Waits until `moment` of the clock that jumps. `late` is what `wait` says when its moment has come, `woken` what it says
// when somebody has woken it, which callers must bear also when nobody has.
static int wait_until(Wait *wait, void *a, void *b, const struct timespec *moment, int late, int woken) {
    int64_t first = jumped();
    long look_ns = LOOK_NS;
    for (;;) {
        struct timespec due = *moment;
        due.tv_sec -= jumped();
        struct timespec look = real_time();
        look.tv_nsec += look_ns;
        look.tv_sec += look.tv_nsec / SECOND_NS;
        look.tv_nsec %= SECOND_NS;
        if (before(due, look))
            look = due;
        int outcome = wait(a, b, &look);
        if (outcome != late)
            return outcome;
        due.tv_sec = moment->tv_sec - jumped();
        if (!before(real_time(), due))
            return late;
        // Without a jump it is for the caller to wait on: a signal may have come between two waits of ours. After a
        // jump back the kernel would go on; a signal would be missed in one of a million such waits.
        if (jumped() == first && woken >= 0)
            return woken;
        if (jumped() < first)
            look_ns = LATE_NS;
    }
}

static int on_cnd(void *condition, void *mutex, const struct timespec *moment) {
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "cnd_timedwait");
    return real(condition, mutex, moment);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict moment) {
    return wait_until(on_cnd, condition, mutex, moment, thrd_timedout, thrd_success);
}

static int on_cond(void *condition, void *mutex, const struct timespec *moment) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(condition, mutex, moment);
}

// Of the wall clock only: nothing here waits by another one with this function.
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict moment) {
    return wait_until(on_cond, condition, mutex, moment, ETIMEDOUT, 0);
}

static int on_semaphore(void *semaphore, void *nothing, const struct timespec *moment) {
    static int (*real)(sem_t *, const struct timespec *);
    (void)nothing;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "sem_timedwait");
    return real(semaphore, moment) == 0 ? 0 : errno;
}

// Nothing gets lost between two waits for a semaphore.
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict moment) {
    int outcome = wait_until(on_semaphore, semaphore, NULL, moment, ETIMEDOUT, -1);
    if (outcome != 0)
        errno = outcome;
    return outcome == 0 ? 0 : -1;
}
