//! All threads of a process stopped at once, by the library.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use farspace::{Frozen, on_own_thread};
use farspace_victims::harness::Victim;

/// execve waits for the threads that we trace, and we wait for execve: one of the two must give way.
#[test]
fn an_exec_and_a_stop_of_all_threads_do_not_wait_for_each_other() {
    let victim = Victim::spawn("exec-loop", &["--threads", "6"]).expect("it starts");
    let pid = victim.pid();
    let (done, wait) = mpsc::channel();
    let stopper = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(5);
        let mut stops = 0;
        while Instant::now() < until {
            // Threads that are replaced by an exec meanwhile are an error like any other.
            let stop = || Frozen::stop(pid, None, Duration::from_millis(500)).map(Frozen::thaw);
            stops += usize::from(on_own_thread(stop).is_ok());
        }
        done.send(stops).expect("somebody waits");
    });
    let stops = wait.recv_timeout(Duration::from_secs(30)).expect("a stop came to no end");
    stopper.join().expect("it came to its end");
    assert!(stops > 0);
    victim.finish().expect("unharmed");
}
