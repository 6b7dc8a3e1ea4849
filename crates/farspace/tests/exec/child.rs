//! A child that counts, and how it looks from outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that only sleeps; killed when dropped.
pub(crate) struct Target {
    child: Child,
}

impl Target {
    pub(crate) fn start() -> Self {
        Self::start_with(|| {})
    }

    /// One that does something before it becomes the program: system calls only.
    pub(crate) fn start_with(prepare: impl Fn() + Send + Sync + 'static) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                prepare();
                Ok(())
            });
        }
        let target = Self { child: command.spawn().expect("sleep is everywhere") };
        // Until it sleeps, it still maps its libraries.
        wait_for("sleep", || target.proc("syscall").starts_with("230 "));
        target
    }

    /// One with two threads: this test program.
    pub(crate) fn start_threaded() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "child::sleeper", "--ignored", "--test-threads=2"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let target = Self { child: command.spawn().expect("this test") };
        let is_in = |tid: &i32, nr: &str| target.proc(&format!("task/{tid}/syscall")).starts_with(nr);
        // One sleeps, and the other waits for it (futex): nobody changes anything any more.
        let waits = |tid: &i32| is_in(tid, "230 ") || is_in(tid, "202 ");
        wait_for("threads", || {
            let threads = target.threads();
            threads.iter().all(waits) && threads.iter().any(|tid| is_in(tid, "230 "))
        });
        target
    }

    pub(crate) fn threads(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it lives");
        tasks.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Kills those of this name that share the memory.
    pub(crate) fn kill(&self, name: &str) {
        for pid in self.look().3 {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == name {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap_or_default()
    }

    /// Mappings, threads, descriptors and everyone that shares the memory.
    pub(crate) fn look(&self) -> (Vec<String>, usize, usize, BTreeSet<i32>) {
        // Sizes of the stack and the heap may change.
        let maps = self.proc("maps").lines().map(str::to_owned).collect();
        let count = |name| fs::read_dir(format!("/proc/{}/{name}", self.pid())).map_or(0, Iterator::count);
        (maps, count("task"), count("fd"), self.sharers())
    }

    /// Processes that share the memory.
    fn sharers(&self) -> BTreeSet<i32> {
        let pids = fs::read_dir("/proc").expect("it is mounted");
        let pids = pids.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // SAFETY: no memory is involved.
        pids.filter(|pid| unsafe { libc::syscall(libc::SYS_kcmp, self.pid(), *pid, 1, 0, 0) } == 0).collect()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_none()
    }

    /// Leaves it, and checks that it looks as before.
    pub(crate) fn assert_clean(&mut self, before: &(Vec<String>, usize, usize, BTreeSet<i32>)) {
        farspace::raw::leave_idle();
        wait_for("nothing left", || self.look() == *before);
        assert!(self.is_alive());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        farspace::raw::leave_idle();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "a thread of a target"]
fn sleeper() {
    std::thread::sleep(Duration::from_secs(1000));
}
