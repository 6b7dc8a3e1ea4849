"""Threads that compute the same again and again and compare: any disturbance shows. Ends at the end of its input."""

import hashlib
import os
import sys
import threading
import zlib

THREADS = 4
done = threading.Event()
lock = threading.Lock()
rounds = wrong = 0


def one_round(seed):
    # Objects of all kinds, much memory made and dropped, and calls that run without the interpreter's lock.
    numbers = {i: i * i for i in range(seed, seed + 20000)}
    total = sum(numbers.values())
    text = b"".join(b"%d," % n for n in list(numbers.values())[:2000])
    block = zlib.decompress(zlib.compress(text * 20, 1))
    return total, hashlib.sha256(block).hexdigest()


def work(seed):
    global rounds, wrong
    expected = one_round(seed)
    # Sum of squares, by its formula.
    below = lambda n: (n - 1) * n * (2 * n - 1) // 6
    right = expected[0] == below(seed + 20000) - below(seed)
    while not done.is_set():
        right = right and one_round(seed) == expected
        with lock:
            rounds += 1
            wrong += not right


ballast = [bytearray(os.urandom(4096)) * 256 for _ in range(128)]
sums = [zlib.crc32(block) for block in ballast]
threads = [threading.Thread(target=work, args=(i * 1000,)) for i in range(THREADS)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
done.set()
for thread in threads:
    thread.join()
wrong += sum(zlib.crc32(block) != crc for block, crc in zip(ballast, sums))
print(f"rounds {rounds} wrong {wrong}", flush=True)
