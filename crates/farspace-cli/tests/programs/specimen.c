// A process with one of everything that a core has to show. When all of it is in place, it prints its pid and the
// addresses of texts in memory of every kind.
//
//   specimen PLUGIN         memory of every kind, threads in blocking calls, known vector registers
//   specimen PLUGIN sparse  and a mapping of 1 GiB, of which three pages were touched
//   specimen PLUGIN many    and 66,000 mappings
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 1 << 16, MANY = 66000 };

int counter = 41;
double root;
const char *constant = "constant text";
__thread int tls_value;
struct node { struct node *next; int number; } *list;

char *private_memory, *shared_memory, *file_memory, *written_file_memory, *none_memory, *unforked_memory;
char *undumped_memory, *wiped_memory, *locked_memory, *huge_memory, *untouched_memory, *unreserved_none;
char *sparse_memory, *many_memory;

static atomic_int in_place;
static int (*pipe_fds)[2];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

static void begin(int number, const char *name) {
    tls_value = 100 + number;
    pthread_setname_np(pthread_self(), name);
    atomic_fetch_add(&in_place, 1);
}

static void *in_nanosleep(void *arg) {
    // Not sleep(), which is told the time that is left and would differ from dump to dump.
    struct timespec time = {100000, 0};
    begin(1, "nanosleep");
    for (;;) clock_nanosleep(CLOCK_MONOTONIC, 0, &time, 0);
    return arg;
}
static void *in_poll(void *arg) { begin(2, "poll"); for (;;) poll(0, 0, 100000000); return arg; }
static void *in_read(void *arg) { char c; begin(3, "read"); while (read((*pipe_fds)[0], &c, 1) != 1) ; return arg; }
static void *in_condition(void *arg) {
    begin(4, "condition");
    pthread_mutex_lock(&mutex);
    for (;;) pthread_cond_wait(&never, &mutex);
    return arg;
}
static void *in_epoll(void *arg) {
    struct epoll_event event;
    int fd = epoll_create1(0);
    begin(5, "epoll");
    for (;;) epoll_wait(fd, &event, 1, -1); // A stop interrupts it.
    return arg;
}
static void *in_accept(void *arg) {
    // An address of the family alone: the kernel chooses a name.
    struct sockaddr address = {.sa_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(fd, &address, sizeof address.sa_family) || listen(fd, 1)) perror("listen");
    begin(6, "accept");
    for (;;) accept(fd, 0, 0);
    return arg;
}
static void handler(int signal) { (void)signal; atomic_fetch_add(&in_place, 1); for (;;) pause(); }
// In a handler, with another signal blocked and pending.
static void *in_handler(void *arg) {
    sigset_t set;
    begin(7, "handler");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, 0);
    pthread_kill(pthread_self(), SIGUSR2);
    pthread_kill(pthread_self(), SIGUSR1);
    return arg;
}
// Registers with known contents, in a loop of one instruction.
static double vector[8] = {1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5};
static void *in_vectors(void *arg) {
    begin(8, "vectors");
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile("vmovupd %0, %%zmm0\n\tvmovupd %0, %%zmm31\n\tkmovw %1, %%k1\n1:\tjmp 1b"
                         : : "m"(vector), "r"(0x55));
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vmovupd %0, %%ymm0\n\tvmovupd %0, %%ymm15\n1:\tjmp 1b" : : "m"(vector));
    __asm__ volatile("movupd %0, %%xmm0\n1:\tjmp 1b" : : "m"(vector));
    return arg;
}
// Frames with arguments and locals, to be seen in a backtrace.
static volatile int released;
static int __attribute__((noinline)) deep(int depth) {
    volatile int local = depth * 3;
    if (depth == 0) { begin(9, "deep"); while (!released) pause(); }
    else deep(depth - 1);
    return local;
}
static void *in_recursion(void *arg) { deep(5); return arg; }

static char *map(size_t size, int protection, int flags, int fd, const char *text) {
    char *memory = mmap(0, size, protection, flags, fd, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(1); }
    if (text) strcpy(memory + 4096, text);
    return memory;
}

static void make_memory(const char *scratch) {
    const int rw = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    private_memory = map(SIZE, rw, anonymous, -1, "private text");
    shared_memory = map(SIZE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, "shared text");
    none_memory = map(SIZE, rw, anonymous, -1, "unreadable text");
    mprotect(none_memory, SIZE, PROT_NONE);
    unforked_memory = map(SIZE, rw, anonymous, -1, "unforked text");
    madvise(unforked_memory, SIZE, MADV_DONTFORK);
    undumped_memory = map(SIZE, rw, anonymous, -1, "undumped text");
    madvise(undumped_memory, SIZE, MADV_DONTDUMP);
    wiped_memory = map(SIZE, rw, anonymous, -1, "wiped text");
    madvise(wiped_memory, SIZE, MADV_WIPEONFORK);
    locked_memory = map(SIZE, rw, anonymous, -1, "locked text");
    mlock(locked_memory, SIZE);
    huge_memory = map(4 << 20, rw, anonymous, -1, 0);
    madvise(huge_memory, 4 << 20, MADV_HUGEPAGE);
    memset(huge_memory, 'h', 4 << 20);
    untouched_memory = map(SIZE, rw, anonymous, -1, 0);
    unreserved_none = map(1 << 24, PROT_NONE, anonymous | MAP_NORESERVE, -1, 0);
    FILE *file = fopen(scratch, "w+");
    if (!file || ftruncate(fileno(file), SIZE)) { perror(scratch); exit(1); }
    file_memory = map(SIZE, rw, MAP_SHARED, fileno(file), "file text");
    written_file_memory = map(SIZE, rw, MAP_PRIVATE, fileno(file), "written text");
}

static void make_sparse(void) {
    sparse_memory = map(1L << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(sparse_memory, 1L << 30, MADV_NOHUGEPAGE);
    strcpy(sparse_memory, "first");
    strcpy(sparse_memory + (512L << 20), "middle");
    strcpy(sparse_memory + (1L << 30) - 4096, "last");
}

static void make_many(void) {
    many_memory = map(MANY * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < MANY; i += 2)
        if (mprotect(many_memory + i * 4096, 4096, PROT_READ)) { perror("mprotect"); exit(1); }
    strcpy(many_memory + (MANY - 1) * 4096L, "the last of many");
}

int main(int argc, char **argv) {
    static void *(*const bodies[])(void *) = {in_nanosleep, in_poll,    in_read,    in_condition, in_epoll,
                                             in_accept,    in_handler, in_vectors, in_recursion};
    const int nr = sizeof bodies / sizeof *bodies;
    int fds[2];
    char scratch[4096];
    if (argc < 2 || pipe(fds)) return 2;
    pipe_fds = &fds;
    snprintf(scratch, sizeof scratch, "%s.scratch", argv[1]);
    make_memory(scratch);
    if (argc > 2 && !strcmp(argv[2], "sparse")) make_sparse();
    if (argc > 2 && !strcmp(argv[2], "many")) make_many();
    void *plugin = dlopen(argv[1], RTLD_NOW);
    int *(*plugin_thread_local)(void) = plugin ? (int *(*)(void))dlsym(plugin, "plugin_thread_local") : 0;
    if (!plugin_thread_local) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    *plugin_thread_local() = 77;
    for (int i = 3; i > 0; i--) {
        struct node *node = malloc(sizeof *node);
        *node = (struct node){list, i};
        list = node;
    }
    counter++;
    root = sqrt(argc * 1.0);
    tls_value = 100;
    signal(SIGUSR1, handler);
    for (int i = 0; i < nr; i++) {
        pthread_t thread;
        if ((errno = pthread_create(&thread, 0, bodies[i], 0))) { perror("pthread_create"); return 1; }
    }
    while (in_place < nr + 1) usleep(1000);
    usleep(100000); // They announce themselves before they block.
    printf("%d", getpid());
#define TELL(name) printf(" " #name "=%lx", (unsigned long)name##_memory + 4096)
    TELL(private), TELL(shared), TELL(file), TELL(written_file), TELL(none), TELL(unforked), TELL(undumped);
    TELL(wiped), TELL(locked), TELL(huge), TELL(untouched), TELL(sparse), TELL(many);
    puts("");
    fflush(stdout);
    for (;;) pause();
}
