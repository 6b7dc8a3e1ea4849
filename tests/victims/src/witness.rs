//! The witness inside every victim: a worker whose results prove that the process runs on, correctly.

use crate::baseline::{Baseline, Left};
use crate::work::Block;
use crate::{pace, sys};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 16 << 10;
/// Between two rounds, so that a witness costs next to nothing.
const PAUSE: Duration = Duration::from_millis(1);
/// Without a new round for this long, the process is as good as stopped.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Progress {
    rounds: u64,
    sum: u64,
    harm: Option<String>,
}

/// A worker thread and the process as it was at the start.
pub struct Witness {
    progress: Arc<Mutex<Progress>>,
    block: Block,
    baseline: Baseline,
}

impl Witness {
    /// Starts the worker, then looks at the process. Everything that the victim sets up for itself (threads,
    /// mappings, descriptors, signal handling) must be there already.
    pub fn start() -> Result<Self, String> {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let shared = Arc::clone(&progress);
        let seed = u64::from(std::process::id());
        std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || work(&shared, seed))
            .map_err(|e| format!("witness thread: {e}"))?;
        let witness = Self { progress, block: Block::new(seed, BLOCK_BYTES), baseline: Baseline::capture()? };
        witness.progresses()?;
        Ok(Self { baseline: Baseline::capture()?, ..witness })
    }

    /// Takes the process as it is now for the reference.
    pub fn rebase(&mut self) -> Result<(), String> {
        self.baseline = Baseline::capture()?;
        Ok(())
    }

    /// Whether the process runs on unharmed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, left: Left) -> Result<(), String> {
        self.progresses()?;
        self.baseline.check(left)
    }

    /// Waits for a new round and compares its result.
    pub fn progresses(&self) -> Result<(), String> {
        let begin = Instant::now();
        let first = self.lock().rounds;
        loop {
            let (rounds, sum) = {
                let progress = self.lock();
                if let Some(harm) = &progress.harm {
                    return Err(format!("witness: {harm}"));
                }
                (progress.rounds, progress.sum)
            };
            if rounds > first {
                let expected = self.block.expected(rounds);
                return if sum == expected {
                    Ok(())
                } else {
                    Err(format!("witness: sum {sum:#x} after {rounds} rounds, expected {expected:#x}"))
                };
            }
            if begin.elapsed() > pace::limit(PROGRESS_TIMEOUT) {
                return Err(format!("witness: no progress after round {first} in {PROGRESS_TIMEOUT:?}"));
            }
            sys::sleep(PAUSE)?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Mutex<Progress>, seed: u64) {
    let mut block = Block::new(seed, BLOCK_BYTES);
    loop {
        block.advance();
        let sum = block.sum();
        let slept = sys::sleep(PAUSE);
        let mut progress = shared.lock().unwrap_or_else(PoisonError::into_inner);
        progress.rounds += 1;
        progress.sum = sum;
        if let Err(harm) = slept {
            progress.harm.get_or_insert(harm);
        }
    }
}
