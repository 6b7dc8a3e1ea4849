import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** Threads that compute the same again and again and compare: any disturbance shows. Ends at a line of input. */
public class Rounds {
    static final int THREADS = 4;
    static final AtomicLong rounds = new AtomicLong(), wrong = new AtomicLong();
    static final AtomicBoolean done = new AtomicBoolean();

    /** Makes garbage of many sizes, and a sum that has a formula. */
    static long round(int seed) {
        Map<Integer, String> map = new HashMap<>();
        for (int i = seed; i < seed + 20000; i++) map.put(i, Integer.toString(i) + new String(new char[i % 50]));
        long sum = 0;
        for (String text : map.values()) sum += Integer.parseInt(text.replace("\0", ""));
        return sum;
    }

    static void work(int seed) {
        long expected = 20000L * seed + 20000L * 19999 / 2;
        List<byte[]> kept = new ArrayList<>();
        while (!done.get()) {
            if (round(seed) != expected) wrong.incrementAndGet();
            // Some of it grows old, so that full collections have something to move.
            byte[] block = new byte[100000];
            java.util.Arrays.fill(block, (byte) seed);
            kept.add(block);
            if (kept.size() > 200) {
                for (byte[] old : kept) for (byte b : old) if (b != (byte) seed) wrong.incrementAndGet();
                kept.clear();
            }
            rounds.incrementAndGet();
        }
    }

    static long collections() {
        long n = 0;
        for (var bean : ManagementFactory.getGarbageCollectorMXBeans()) n += bean.getCollectionCount();
        return n;
    }

    public static void main(String[] args) throws Exception {
        Thread[] threads = new Thread[THREADS];
        for (int i = 0; i < THREADS; i++) {
            int seed = (i + 1) * 1000;
            threads[i] = new Thread(() -> work(seed), "rounds-" + i);
            threads[i].start();
        }
        // Once it has collected, all of its own threads are there.
        while (collections() < 20) Thread.sleep(10);
        long before = collections();
        System.out.println("ready");
        System.in.read();
        done.set(true);
        for (Thread thread : threads) thread.join();
        System.out.println("rounds " + rounds + " wrong " + wrong + " collections " + (collections() - before));
    }
}
