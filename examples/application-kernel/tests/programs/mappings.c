// Mappings that grow, move, shrink, are protected, dropped, and shared with a file: argv[1].
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(what) \
    if (!(what)) return printf("line %d\n", __LINE__), 1

int main(int argc, char **argv) {
    const long mib = 1 << 20;
    const int both = PROT_READ | PROT_WRITE, private = MAP_PRIVATE | MAP_ANONYMOUS;
    char *a = mmap(0, 4 * mib, both, private, -1, 0);
    a[0] = 'a';
    a[3 * mib + 5] = 'b';
    char *wall = mmap(a + 4 * mib, 4096, both, private | MAP_FIXED, -1, 0);
    *wall = 'w';
    CHECK(mremap(a, 4 * mib, 9 * mib, 0) == MAP_FAILED);
    char *b = mremap(a, 4 * mib, 9 * mib, MREMAP_MAYMOVE);
    CHECK(b != a && b[0] == 'a' && b[3 * mib + 5] == 'b' && b[9 * mib - 1] == 0 && *wall == 'w');
    CHECK(mremap(b, 9 * mib, mib, 0) == b && b[0] == 'a');
    CHECK(mprotect(b, 4096, PROT_READ) == 0 && pread(3, b, 1, 0) == -1 && b[0] == 'a');
    CHECK(mprotect(b, 4096, both) == 0 && madvise(b, mib, MADV_DONTNEED) == 0 && b[0] == 0);
    CHECK(munmap(b + 4096, 4096) == 0 && write(1, b + 4096, 1) == -1);

    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(ftruncate(fd, 300000) == 0 && pwrite(fd, "end", 3, 299997) == 3);
    char *s = mmap(0, 300000, both, MAP_SHARED, fd, 0);
    char *p = mmap(0, 100000, both, MAP_PRIVATE, fd, 4096);
    memcpy(s + 5000, "shared", 6);
    CHECK(memcmp(p + 904, "shared", 6) == 0 && memcmp(s + 299997, "end", 3) == 0 && s[300001] == 0);
    p[904] = 'S';
    p = mremap(p, 100000, 200000, MREMAP_MAYMOVE);
    s = mremap(s, 300000, 400000, MREMAP_MAYMOVE);
    CHECK(p[904] == 'S' && s[5000] == 's' && s[299997] == 'e');
    CHECK(mprotect(s, 4096, PROT_READ) == 0 && pread(fd, s, 1, 0) == -1 && pread(fd, s + 4096, 1, 0) == 1);

    char *heap = sbrk(5 * mib);
    heap[5 * mib - 1] = 1;
    CHECK(sbrk(-4 * mib) != (void *)-1 && sbrk(0) == heap + mib);
    return puts("done"), 0;
}
