/* LD_PRELOAD: makes one system call of one program fail, as REFUSE asks: "PROGRAM|CALL|PATH|ERRNO|FROM".
 *
 * PROGRAM and PATH are parts of a command line, and of a path (that of the descriptor, where a call takes one; none
 * where it takes neither). The first FROM calls that match succeed, all later ones fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char call[32], wanted[256];
static int number, from;
static atomic_int seen;

__attribute__((constructor)) static void read_request(void) {
    const char *request = getenv("REFUSE");
    char line[4096] = "", program[256];
    int file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    ssize_t length = read(file, line, sizeof line - 1);
    close(file);
    for (ssize_t i = 0; i < length; i++)
        if (!line[i]) line[i] = ' ';
    if (!request || sscanf(request, "%255[^|]|%31[^|]|%255[^|]|%d|%d", program, call, wanted, &number, &from) != 5 ||
        !strstr(line, program))
        number = 0;
}

static bool refused(const char *name, const char *path) {
    if (!number || strcmp(call, name) || (path && !strstr(path, wanted)) || atomic_fetch_add(&seen, 1) < from)
        return false;
    errno = number;
    return true;
}

static bool refused_of(const char *name, int descriptor) {
    char link[64], path[4096] = "";
    if (!number || strcmp(call, name)) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) < 0) return false;
    return refused(name, path);
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        return refused("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        MODE(flags) \
        return refused("open", path) ? -1 : REAL(name)(at, path, flags, mode); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

int rename(const char *old, const char *new) { return refused("rename", new) ? -1 : REAL(rename)(old, new); }

int renameat2(int at, const char *old, int to, const char *new, unsigned flags) {
    return refused("rename", new) ? -1 : REAL(renameat2)(at, old, to, new, flags);
}

int link(const char *old, const char *new) { return refused("link", new) || refused("rename", new) ? -1 : REAL(link)(old, new); }

int linkat(int at, const char *old, int to, const char *new, int flags) {
    return refused("link", new) || refused("rename", new) ? -1 : REAL(linkat)(at, old, to, new, flags);
}

int unlink(const char *path) { return refused("unlink", path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return refused("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
int mkfifo(const char *path, mode_t mode) { return refused("mkfifo", path) ? -1 : REAL(mkfifo)(path, mode); }
int fsync(int file) { return refused_of("fsync", file) ? -1 : REAL(fsync)(file); }

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return refused_of("pwrite", file) ? -1 : REAL(pwrite64)(file, data, size, at);
}

int fchownat(int at, const char *path, uid_t user, gid_t group, int flags) {
    return refused("chown", path) ? -1 : REAL(fchownat)(at, path, user, group, flags);
}

int lchown(const char *path, uid_t user, gid_t group) {
    return refused("chown", path) ? -1 : REAL(lchown)(path, user, group);
}

ssize_t process_vm_writev(pid_t pid, const struct iovec *local, unsigned long locals, const struct iovec *remote,
                          unsigned long remotes, unsigned long flags) {
    if (refused("process_vm_writev", NULL)) return -1;
    return REAL(process_vm_writev)(pid, local, locals, remote, remotes, flags);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);
    return refused("ptrace", NULL) ? -1 : REAL(ptrace)(request, pid, address, data);
}
