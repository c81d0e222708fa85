// Preloaded into a program, makes the n-th call of one kind fail: CLIP_FAIL_CALL (open, read, write, mmap, malloc), CLIP_FAIL_NTH,
// CLIP_FAIL_ERRNO. Of open, read and write only those count that concern files below CLIP_FAIL_BELOW; of mmap and malloc those of
// 64 KiB and more, once a file below it was opened. CLIP_FAIL_FIRED names a file that is made when the call has failed: one call
// fails, of all processes that inherit this. A server that failed at its n-th call, and the next one at its own, would never serve.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define LARGE 65536

static const char *wanted, *below, *fired;
static long nth;
static int error_number;
static atomic_long seen;
static atomic_int armed;

__attribute__((constructor)) static void init(void) {
  wanted = getenv("CLIP_FAIL_CALL");
  below = getenv("CLIP_FAIL_BELOW");
  fired = getenv("CLIP_FAIL_FIRED");
  nth = getenv("CLIP_FAIL_NTH") ? atol(getenv("CLIP_FAIL_NTH")) : 0;
  error_number = getenv("CLIP_FAIL_ERRNO") ? atoi(getenv("CLIP_FAIL_ERRNO")) : EIO;
}

static int fails(const char *call) {
  if (wanted == NULL || strcmp(wanted, call) != 0) return 0;
  if (atomic_fetch_add(&seen, 1) + 1 != nth) return 0;
  int fd = syscall(SYS_openat, AT_FDCWD, fired, O_CREAT | O_EXCL | O_WRONLY, 0600);
  if (fd < 0) return 0;
  syscall(SYS_close, fd);
  errno = error_number;
  return 1;
}

static int inside(const char *path) { return below != NULL && strncmp(path, below, strlen(below)) == 0; }

static int fd_inside(int fd) {
  char link[64], path[4096];
  if (below == NULL || wanted == NULL) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return inside(path);
}

static int opens(int directory, const char *path, int flags, int mode) {
  int fd = syscall(SYS_openat, directory, path, flags, mode);
  if (fd < 0 || !fd_inside(fd)) return fd;
  atomic_store(&armed, 1);
  if (!fails("open")) return fd;
  syscall(SYS_close, fd);
  errno = error_number;
  return -1;
}

#define MODE(flags)                                   \
  int mode = 0;                                       \
  if ((flags) & (O_CREAT | O_TMPFILE)) {              \
    va_list rest;                                     \
    va_start(rest, flags);                            \
    mode = va_arg(rest, int);                         \
    va_end(rest);                                     \
  }
int open(const char *path, int flags, ...) { MODE(flags) return opens(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opens(AT_FDCWD, path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { MODE(flags) return opens(fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { MODE(flags) return opens(fd, path, flags, mode); }

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))
typedef ssize_t (*io)(int, void *, size_t);
typedef ssize_t (*pio)(int, void *, size_t, off_t);
typedef ssize_t (*vio)(int, const struct iovec *, int);
typedef ssize_t (*pvio)(int, const struct iovec *, int, off_t);

#define WRAP(kind, name, type, declared, used)                         \
  ssize_t name declared {                                              \
    static type next;                                                  \
    if (next == NULL) next = NEXT(type, #name);                        \
    if (wanted != NULL && strcmp(wanted, kind) == 0 && fd_inside(fd) && fails(kind)) return -1; \
    return next used;                                                  \
  }
WRAP("read", read, io, (int fd, void *at, size_t n), (fd, at, n))
WRAP("read", pread, pio, (int fd, void *at, size_t n, off_t o), (fd, at, n, o))
WRAP("read", pread64, pio, (int fd, void *at, size_t n, off_t o), (fd, at, n, o))
WRAP("read", preadv, pvio, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
WRAP("read", preadv64, pvio, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
WRAP("write", write, io, (int fd, const void *at, size_t n), (fd, (void *)at, n))
WRAP("write", pwrite, pio, (int fd, const void *at, size_t n, off_t o), (fd, (void *)at, n, o))
WRAP("write", pwrite64, pio, (int fd, const void *at, size_t n, off_t o), (fd, (void *)at, n, o))
WRAP("write", writev, vio, (int fd, const struct iovec *v, int n), (fd, v, n))
WRAP("write", pwritev, pvio, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
WRAP("write", pwritev64, pvio, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))

static void *maps(void *at, size_t n, int protection, int flags, int fd, off_t o) {
  if (n >= LARGE && atomic_load(&armed) && fails("mmap")) return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, o);
}
void *mmap(void *at, size_t n, int p, int f, int fd, off_t o) { return maps(at, n, p, f, fd, o); }
void *mmap64(void *at, size_t n, int p, int f, int fd, off_t o) { return maps(at, n, p, f, fd, o); }

extern void *__libc_malloc(size_t);
void *malloc(size_t n) {
  if (n >= LARGE && atomic_load(&armed) && fails("malloc")) return NULL;
  return __libc_malloc(n);
}
