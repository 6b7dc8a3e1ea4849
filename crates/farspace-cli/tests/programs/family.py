# A process with descendants that share memory; each checks its own. Arguments: children, and "storm" for a child that
# forks all the time.
import mmap, os, signal, sys, time

SHARED = 4 << 20
shared = mmap.mmap(-1, SHARED)
shared[:] = bytes(i * 7 & 255 for i in range(4096)) * (SHARED // 4096)
expected = shared[:4096]


def work(name):
    own = bytearray(name.encode() * 300000)
    while True:
        time.sleep(0.005)
        if own[-len(name):] != name.encode() or shared[8192:12288] != expected:
            os._exit(9)


def storm():
    while True:
        child = os.fork()
        if child == 0:
            # Half of them have a child of their own.
            if os.getpid() % 2 and os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)


pids = []
for i in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        if i == 0 and "storm" in sys.argv:
            storm()
        grandchild = os.fork()
        work("grandchild" if grandchild == 0 else "child")
    pids.append(pid)
print("ready", flush=True)
sys.stdin.readline()
for pid in pids:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        print("child", pid, "ended:", status, flush=True)
        sys.exit(1)
print("well", flush=True)
os.killpg(0, signal.SIGKILL)
