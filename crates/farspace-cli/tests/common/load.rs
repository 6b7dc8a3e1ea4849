//! A client of redis that checks every answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the client saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Right answers.
    pub(crate) answers: u64,
    /// The longest that it waited for one.
    pub(crate) longest: Duration,
}

/// A thread that counts up a key, and compares.
pub(crate) struct Counter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Seen>>>,
}

impl Counter {
    /// Connects and begins.
    pub(crate) fn start(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        Self { stop, thread: Some(std::thread::spawn(move || count(stream, &told))) }
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// An answer was an error, or wrong.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn count(mut stream: UnixStream, stop: &AtomicBool) -> std::io::Result<Seen> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut seen = Seen { answers: 0, longest: Duration::ZERO };
    let mut line = String::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        stream.write_all(b"INCR counted\r\n")?;
        line.clear();
        reader.read_line(&mut line)?;
        seen.longest = seen.longest.max(begin.elapsed());
        seen.answers += 1;
        // An integer of the protocol: ":1".
        assert_eq!(line.trim_end(), format!(":{}", seen.answers), "redis answers");
    }
    Ok(seen)
}
