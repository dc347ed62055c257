/*
 * Preloaded into a process under test: records, in order, what it does to the files below one directory, and what goes through
 * its sockets; and makes file operations fail on request.
 *
 * RECORD_ROOT  the directory that is watched: an absolute path
 * RECORD_LOG   where the records go (appended); without it nothing is recorded
 * RECORD_FAULT a file that may hold lines "<read|write|sync|truncate|open> <errno> <part of the path>": while it does, those fail
 *              ("random": to get random bytes; the number of bytes is what a path is to the others);
 *              with 0 for the errno they hang instead. A part that ends in $ is the end of the path. "sync#7": of the syncs that
 *              it names, only the seventh since the file was written; "sync#7+20000": it takes 20 seconds before it fails. Such a
 *              line stands alone in its file, which is renamed to <file>.met when the seventh comes: it is carried out then, even
 *              if that takes a while, and once. "hang <milliseconds> <part>": a sync takes that much longer.
 *
 * A record: kind, is_directory, is_new, 0; pid; fd; inode; a; length of the payload (all little-endian); payload. Kinds:
 *   O opened (payload: path)   W written (a: offset)   T truncated (a: length)   B sync begins   S sync done   F sync failed
 *   R renamed (payload: from NUL to)   U unlinked (path)
 *   o socket opened   r received   p about to send   s sent   c socket closed
 * A change of a file and its record are one step.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define FDS 4096

struct header {
    uint8_t kind, directory, fresh, zero;
    uint32_t pid;
    uint32_t fd, length;
    uint64_t inode, a;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *files[FDS];   /* the path of a watched file that is open */
static char sockets[FDS];
static int log_fd = -1;
static const char *root, *fault;
static ssize_t (*real_write)(int, const void *, size_t);

__attribute__((constructor)) static void begin(void) {
    real_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int (*real_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    const char *path = getenv("RECORD_LOG");
    root = getenv("RECORD_ROOT");
    fault = getenv("RECORD_FAULT");
    if (root && path) {
        log_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0) abort();
    }
}

static int in_root(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return length && path && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static const char *file_of(int fd) { return fd >= 0 && fd < FDS ? files[fd] : NULL; }

static int is_socket(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && sockets[fd]; }

static void put(char kind, int fd, uint64_t a, int fresh, const void *payload, size_t length) {
    if (log_fd < 0) return;
    struct stat stat = {0};
    if (file_of(fd)) fstat(fd, &stat);
    struct header header = {(uint8_t)kind, S_ISDIR(stat.st_mode), (uint8_t)fresh, 0, (uint32_t)getpid(), (uint32_t)fd,
                            (uint32_t)length, stat.st_ino, a};
    struct iovec parts[2] = {{&header, sizeof header}, {(void *)payload, length}};
    static ssize_t (*real_writev)(int, const struct iovec *, int);
    if (!real_writev) real_writev = (ssize_t(*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    /* One write to a file opened for appending: whole, and after all before it. */
    if (real_writev(log_fd, parts, 2) != (ssize_t)(sizeof header + length)) abort();
}

static int is_named(const char *path, const char *part) {
    size_t length = strlen(part), whole = strlen(path);
    if (!length || part[length - 1] != '$') return strstr(path, part) != NULL;
    return whole >= length - 1 && !strncmp(path + whole - (length - 1), part, length - 1);
}

/* The how many-th it is since this list was written. */
static int count(FILE *list) {
    static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
    static struct stat last;
    static int so_far;
    struct stat now;
    if (fstat(fileno(list), &now)) return 0;
    pthread_mutex_lock(&counting);
    int same = now.st_ino == last.st_ino && now.st_ctim.tv_sec == last.st_ctim.tv_sec &&
               now.st_ctim.tv_nsec == last.st_ctim.tv_nsec;
    so_far = same ? so_far + 1 : 1;
    last = now;
    int number = so_far;
    pthread_mutex_unlock(&counting);
    return number;
}

/* "sync#7", "sync#7+20000": the seventh, and how long it takes. Its list is taken away, unless somebody did so just before. */
static int is_its_turn(const char *named, const char *operation, FILE *list, int *pause) {
    size_t length = strlen(operation);
    int number, milliseconds = 0;
    if (strncmp(named, operation, length) || sscanf(named + length, "#%d+%d", &number, &milliseconds) < 1) return 0;
    char met[4096];
    snprintf(met, sizeof met, "%s.met", fault);
    if (count(list) != number || rename(fault, met)) return 0;
    *pause = milliseconds;
    return 1;
}

/* Whether this operation on this file is to fail; errno is set then. */
static int fails(const char *operation, const char *path) {
    if (!fault || !path) return 0;
    for (;;) {
        FILE *list = fopen(fault, "r");
        if (!list) return 0;
        char named[32], part[256];
        int number, found = 0, pause = 0;
        while (!found && fscanf(list, "%31s %d %255s", named, &number, part) == 3) {
            if (!is_named(path, part)) continue;
            if (!strcmp(named, "hang") && !strcmp(operation, "sync")) pause = number;
            found = !strcmp(named, operation) || is_its_turn(named, operation, list, &pause);
        }
        fclose(list);
        usleep((useconds_t)pause * 1000);
        if (!found) return 0;
        if (number) {
            errno = number;
            return 1;
        }
        usleep(10000);
    }
}

static int opened(const char *path, int flags, mode_t mode, int (*real)(const char *, int, ...)) {
    if (!in_root(path)) return real(path, flags, mode);
    if (fails("open", path)) return -1;
    pthread_mutex_lock(&lock);
    struct stat before;
    int fresh = (flags & O_CREAT) && stat(path, &before) != 0;
    int fd = real(path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        files[fd] = strdup(path);
        put('O', fd, 0, fresh, path, strlen(path));
        if (!fresh && (flags & O_TRUNC)) put('T', fd, 0, 0, NULL, 0);
    }
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
    return fd;
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened(path, flags, mode, real);
}

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return opened(path, flags, mode, real);
}

static void forget(int fd) {
    if (fd < 0 || fd >= FDS) return;
    free(files[fd]);
    files[fd] = NULL;
    if (is_socket(fd)) put('c', fd, 0, 0, NULL, 0);
    sockets[fd] = 0;
}

int close(int fd) {
    REAL(int, close, int);
    if (fd == log_fd) return 0;
    /* Before: the number is another's as soon as it is closed. */
    pthread_mutex_lock(&lock);
    forget(fd);
    pthread_mutex_unlock(&lock);
    return real(fd);
}

#define CHANGE(fd, operation, call, size, offset) \
    if (!file_of(fd)) return call; \
    if (fails(operation, file_of(fd))) return -1; \
    pthread_mutex_lock(&lock); \
    ssize_t done = call; \
    int kept = errno; \
    if (done > 0) put('W', fd, (uint64_t)(offset), 0, data, (size_t)done); \
    pthread_mutex_unlock(&lock); \
    errno = kept; \
    return done

#define READ(call) \
    if (fails("read", file_of(fd))) return -1; \
    return call

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    READ(real(fd, data, size));
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    READ(real(fd, data, size, offset));
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    READ(real(fd, data, size, offset));
}

static off_t written_at(int fd, ssize_t done) { return lseek(fd, 0, SEEK_CUR) - done; }

ssize_t write(int fd, const void *data, size_t size) {
    CHANGE(fd, "write", real_write(fd, data, size), size, written_at(fd, done));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    CHANGE(fd, "write", real(fd, data, size, offset), size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    CHANGE(fd, "write", real(fd, data, size, offset), size, offset);
}

static int truncated(int fd, off64_t length, int (*real)(int, off64_t)) {
    if (!file_of(fd)) return real(fd, length);
    if (fails("truncate", file_of(fd))) return -1;
    pthread_mutex_lock(&lock);
    int done = real(fd, length);
    int kept = errno;
    if (!done) put('T', fd, (uint64_t)length, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int ftruncate(int fd, off_t length) {
    REAL(int, ftruncate, int, off64_t);
    return truncated(fd, length, real);
}

int ftruncate64(int fd, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    return truncated(fd, length, real);
}

static int synced(int fd, int (*real)(int)) {
    if (!file_of(fd)) return real(fd);
    if (fails("sync", file_of(fd))) {
        int number = errno;
        put('F', fd, 0, 0, NULL, 0);
        errno = number;
        return -1;
    }
    put('B', fd, 0, 0, NULL, 0);
    int done = real(fd);
    int kept = errno;
    if (!done) put('S', fd, 0, 0, NULL, 0);
    errno = kept;
    return done;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return synced(fd, real);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (!in_root(from)) return real(from, to);
    if (fails("write", to)) return -1;
    char both[8192];
    int length = snprintf(both, sizeof both, "%s%c%s", from, 0, to);
    pthread_mutex_lock(&lock);
    int done = real(from, to);
    int kept = errno;
    if (!done) put('R', -1, 0, 0, both, (size_t)length);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    if (!in_root(path)) return real(path);
    if (fails("write", path)) return -1;
    pthread_mutex_lock(&lock);
    int done = real(path);
    int kept = errno;
    if (!done) put('U', -1, 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

ssize_t getrandom(void *data, size_t size, unsigned flags) {
    REAL(ssize_t, getrandom, void *, size_t, unsigned);
    char asked[24];
    snprintf(asked, sizeof asked, "%zu", size);
    if (fails("random", asked)) return -1;
    return real(data, size, flags);
}

static int new_socket(int fd) {
    if (log_fd >= 0 && fd >= 0 && fd < FDS) {
        sockets[fd] = 1;
        put('o', fd, 0, 0, NULL, 0);
    }
    return fd;
}

int socket(int domain, int type, int protocol) {
    REAL(int, socket, int, int, int);
    return new_socket(real(domain, type, protocol));
}

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags) {
    REAL(int, accept4, int, struct sockaddr *, socklen_t *, int);
    return new_socket(real(listener, address, length, flags));
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL(ssize_t, send, int, const void *, size_t, int);
    if (!is_socket(fd)) return real(fd, data, size, flags);
    put('p', fd, 0, 0, NULL, 0);
    ssize_t done = real(fd, data, size, flags);
    int kept = errno;
    if (done > 0) put('s', fd, 0, 0, data, (size_t)done);
    errno = kept;
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (is_socket(fd)) put('p', fd, 0, 0, NULL, 0);
    ssize_t done = real(fd, parts, count);
    int kept = errno;
    if (is_socket(fd)) {
        ssize_t left = done;
        for (int n = 0; n < count && left > 0; n++) {
            size_t size = (size_t)left < parts[n].iov_len ? (size_t)left : parts[n].iov_len;
            put('s', fd, 0, 0, parts[n].iov_base, size);
            left -= (ssize_t)size;
        }
    } else if (file_of(fd)) {
        abort(); /* not expected, and would not be recorded */
    }
    errno = kept;
    return done;
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    REAL(ssize_t, recv, int, void *, size_t, int);
    ssize_t done = real(fd, data, size, flags);
    int kept = errno;
    if (done > 0 && is_socket(fd) && !(flags & MSG_PEEK)) put('r', fd, 0, 0, data, (size_t)done);
    errno = kept;
    return done;
}
