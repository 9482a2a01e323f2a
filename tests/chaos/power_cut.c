/* A disk that forgets: what was written but not synced is gone after a power cut, and a sync can be made to fail.
   Preloaded into a process. Whatever it syncs is copied as it then stands to $POWER_CUT_DISK, which is all that survives.
   While $POWER_CUT_DISK/fail exists, a sync answers EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int on_the_disk(int fd, char *path, size_t size, const char **name) {
    char link[64];
    struct stat found;
    const char *watched = getenv("POWER_CUT_WATCH");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (!watched || length < 0 || fstat(fd, &found) || !S_ISREG(found.st_mode)) return 0;
    path[length] = 0;
    *name = strrchr(path, '/') + 1;
    return strncmp(path, watched, strlen(watched)) == 0;
}

static int keep(const char *path, const char *name) {
    char kept[8192], fresh[8200], block[65536];
    ssize_t got = 0;
    snprintf(kept, sizeof kept, "%s/%s", getenv("POWER_CUT_DISK"), name);
    snprintf(fresh, sizeof fresh, "%s.fresh", kept);
    int from = open(path, O_RDONLY), to = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (from < 0 || to < 0) return -1;
    while ((got = read(from, block, sizeof block)) > 0)
        if (write(to, block, got) != got) return -1;
    close(from);
    close(to);
    return got < 0 ? -1 : rename(fresh, kept);
}

static int sync_with(const char *function, int fd) {
    char path[4096], fail[4200];
    const char *name;
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    if (!on_the_disk(fd, path, sizeof path, &name)) return real(fd);
    snprintf(fail, sizeof fail, "%s/fail", getenv("POWER_CUT_DISK"));
    if (access(fail, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return keep(path, name);
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
