//! Who may look: looking takes two CPUs, so of many threads that run guests only some may at a time, and take turns.
//!
//! A place on the floor stands for two CPUs. A thread takes a free one for the length of a run. One that does little
//! between its runs is *busy*: it keeps its place from run to run and, where there is none left, waits for its turn
//! instead of getting in the way of those that look. So any number of busy guests gets through as many system calls as one does.
//! A turn ends after a slice if others wait, and a place that isn't used for a while is taken away. With one CPU there are no
//! places, and nobody waits.
//!
//! One lock, held for a few instructions; nothing else is locked meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::wait;

/// A turn while others wait: some thousands of system calls, and many times what a change of turns costs.
const SLICE: Duration = Duration::from_millis(2);
/// A place that wasn't used for so long is unused. The first of those that wait looks as often.
const UNUSED: Duration = Duration::from_micros(250);
/// Longest time between two looks of the others.
const LONGEST: Duration = Duration::from_millis(100);
/// Runs after which a thread is judged again, and every which of them is timed.
const PERIOD: u32 = 64;
const SAMPLE: u32 = 8;
/// More time than a busy thread spends between two runs.
const BETWEEN: Duration = Duration::from_micros(5);
/// Samples in a period that may be longer: a thread loses its CPU now and then.
const LONGER: u32 = 2;

/// What the next run of a vCPU is told: bits of one word, on which its thread sleeps while it waits for its turn.
#[derive(Debug, Default)]
pub(crate) struct Notice(AtomicU32);

impl Notice {
    /// It is to be interrupted.
    const KICKED: u32 = 1;
    /// It was given a place.
    const GIVEN: u32 = 2;
    /// Its thread sleeps.
    const ASLEEP: u32 = 4;

    pub(crate) fn kick(&self) {
        if self.0.fetch_or(Self::KICKED, Ordering::SeqCst) & Self::ASLEEP != 0 {
            wait::wake(&self.0);
        }
    }

    pub(crate) fn is_kicked(&self) -> bool {
        self.0.load(Ordering::SeqCst) & Self::KICKED != 0
    }

    /// True if it was kicked; it isn't any more.
    pub(crate) fn take_kick(&self) -> bool {
        self.is_kicked() && self.0.fetch_and(!Self::KICKED, Ordering::SeqCst) & Self::KICKED != 0
    }

    fn give(&self) {
        self.0.fetch_or(Self::GIVEN, Ordering::SeqCst);
        wait::wake(&self.0);
    }

    fn is_given(&self) -> bool {
        self.0.load(Ordering::SeqCst) & Self::GIVEN != 0
    }

    fn clear(&self, bits: u32) {
        self.0.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Sleeps until something is said.
    fn sleep(&self, slice: Duration, until: Option<Instant>) {
        let seen = self.0.fetch_or(Self::ASLEEP, Ordering::SeqCst) | Self::ASLEEP;
        if seen == Self::ASLEEP {
            wait::sleep(&self.0, seen, slice, until);
        }
        self.clear(Self::ASLEEP);
    }
}

/// Two CPUs. In cache lines of its own: its holder writes to it in each run.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place {
    /// The thread that has it, or 0.
    holder: AtomicU32,
    /// Changes with each of the holder's runs.
    runs: AtomicU32,
}

#[derive(Debug)]
struct Floor {
    places: Box<[Place]>,
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// As those who wait have seen the places.
    seen: Seen,
}

/// By place: holder and runs, and when they were seen first.
type Seen = Vec<((u32, u32), Instant)>;

#[derive(Debug)]
struct Waiter {
    thread: u32,
    notice: Arc<Notice>,
}

/// The place of this thread, if it has one, for the length of a run.
#[derive(Debug)]
pub(crate) struct Run {
    has_place: bool,
    /// If it has waited for a place: when its time is over.
    until: Option<Instant>,
}

impl Run {
    /// A run that doesn't look. A place that the thread has is of no use to it.
    pub(crate) fn without() -> Self {
        let _ = TURN.try_with(Turn::leave);
        Self { has_place: false, until: None }
    }

    /// A run that looks if there is a place. A busy thread waits for one, for so long at most or until it is kicked, if it is
    /// given a notice to sleep on.
    pub(crate) fn begin(notice: Option<(&Arc<Notice>, Option<Duration>)>) -> Self {
        let mut run = Self { has_place: false, until: None };
        // A thread that ends has none.
        run.has_place = TURN.try_with(|turn| turn.begin(notice, &mut run.until)).unwrap_or(false);
        run
    }

    /// What is left of a timeout.
    pub(crate) fn left(&self, timeout: Option<Duration>) -> Option<Duration> {
        self.until.map_or(timeout, |until| Some(until.saturating_duration_since(Instant::now())))
    }

    pub(crate) fn has_place(&self) -> bool {
        self.has_place
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.has_place {
            let _ = TURN.try_with(Turn::end);
        }
    }
}

thread_local! {
    static TURN: Turn = Turn::new();
}

/// What a thread knows of itself.
#[derive(Debug)]
struct Turn {
    thread: u32,
    place: Cell<Option<usize>>,
    /// Since when it has its place.
    since: Cell<Instant>,
    is_busy: Cell<bool>,
    runs: Cell<u32>,
    /// When a run ended, if the time until the next one is a sample.
    ended: Cell<Option<Instant>>,
    /// Samples of the period that were too long.
    long: Cell<u32>,
    /// The places when it got none.
    seen: RefCell<Seen>,
}

impl Turn {
    fn new() -> Self {
        static THREADS: AtomicU32 = AtomicU32::new(0);
        // 0 is nobody; 2^32 threads later somebody would lose a place early.
        let thread = THREADS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        Self {
            thread,
            place: Cell::new(None),
            since: Cell::new(Instant::now()),
            is_busy: Cell::new(false),
            runs: Cell::new(0),
            ended: Cell::new(None),
            long: Cell::new(0),
            seen: RefCell::default(),
        }
    }

    fn begin(&self, notice: Option<(&Arc<Notice>, Option<Duration>)>, until: &mut Option<Instant>) -> bool {
        let floor = Floor::get();
        if floor.places.is_empty() {
            return false;
        }
        let runs = self.runs.get().wrapping_add(1);
        self.runs.set(runs);
        if let Some(ended) = self.ended.take()
            && ended.elapsed() > BETWEEN
        {
            self.long.set(self.long.get() + 1);
        }
        if runs.is_multiple_of(PERIOD) {
            self.is_busy.set(self.long.replace(0) <= LONGER);
            if floor.waiting.load(Ordering::Relaxed) > 0 && self.since.get().elapsed() > SLICE {
                self.leave();
            }
        }
        if let Some(index) = self.place.get() {
            let place = &floor.places[index];
            if place.holder.load(Ordering::Relaxed) == self.thread {
                place.runs.store(runs, Ordering::Relaxed);
                return true;
            }
        }
        let mut taken = floor
            .take(self.thread)
            // A thread that has nothing to do any more may still have it.
            .or_else(|| floor.take_unused(self.thread, &mut self.seen.borrow_mut()));
        if let (None, true, Some((notice, timeout))) = (taken, self.is_busy.get(), notice) {
            *until = timeout.map(|timeout| Instant::now() + timeout);
            taken = floor.wait(self.thread, notice, *until);
        }
        if taken.is_some() && self.is_busy.get() {
            self.since.set(Instant::now());
        }
        self.place.set(taken);
        taken.is_some()
    }

    fn end(&self) {
        if !self.is_busy.get() {
            self.leave();
        }
        if self.runs.get() % SAMPLE == SAMPLE - 1 {
            self.ended.set(Some(Instant::now()));
        }
    }

    fn leave(&self) {
        if let Some(index) = self.place.take() {
            Floor::get().leave(index, self.thread);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Floor {
    fn get() -> &'static Self {
        static FLOOR: OnceLock<Floor> = OnceLock::new();
        FLOOR.get_or_init(|| {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let places = (0..cpus / 2).map(|_| Place::default()).collect();
            Self { places, waiting: AtomicUsize::new(0), queue: Mutex::default() }
        })
    }

    /// A free place.
    fn take(&self, thread: u32) -> Option<usize> {
        self.places.iter().position(|place| place.pass(0, thread))
    }

    /// Gives a place back, or on.
    fn leave(&self, index: usize, thread: u32) {
        let place = &self.places[index];
        // Before the look for who waits; those look for free places after they have joined the queue.
        if !place.pass(thread, 0) || self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = self.queue();
        if let Some(first) = queue.waiters.front()
            && place.pass(0, first.thread)
        {
            let first = queue.waiters.pop_front();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(queue);
            first.inspect(|first| first.notice.give());
        }
    }

    /// Waits for a place; `None` if the time is over, or the vCPU is kicked.
    fn wait(&self, thread: u32, notice: &Arc<Notice>, until: Option<Instant>) -> Option<usize> {
        notice.clear(Notice::GIVEN);
        let mut queue = self.queue();
        queue.waiters.push_back(Waiter { thread, notice: Arc::clone(notice) });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if let Some(index) = self.take(thread).or_else(|| self.take_unused(thread, &mut queue.seen)) {
                break Some(index);
            }
            let Some(position) = queue.position(thread) else { break None };
            drop(queue);
            // Those in front look more often.
            notice.sleep((SLICE * position as u32).clamp(UNUSED, LONGEST), until);
            queue = self.queue();
            if notice.is_given() || notice.is_kicked() || until.is_some_and(|until| Instant::now() >= until) {
                break None;
            }
        };
        if let Some(position) = queue.position(thread) {
            queue.waiters.remove(position);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return taken;
        }
        drop(queue);
        // Whoever took it out of the queue has given it a place: that one, if it has taken another as well.
        let given =
            self.places.iter().enumerate().position(|(index, place)| {
                Some(index) != taken && place.holder.load(Ordering::SeqCst) == thread
            });
        match (given, taken) {
            (Some(_), Some(taken)) => self.leave(taken, thread),
            (None, _) => return taken,
            _ => {}
        }
        given
    }

    /// A place that its holder hasn't used for a while.
    fn take_unused(&self, thread: u32, seen: &mut Seen) -> Option<usize> {
        let now = Instant::now();
        seen.resize(self.places.len(), ((0, 0), now));
        self.places.iter().zip(seen).position(|(place, (seen, since))| {
            let state = (place.holder.load(Ordering::SeqCst), place.runs.load(Ordering::Relaxed));
            if *seen == state && now.duration_since(*since) >= UNUSED {
                return place.pass(state.0, thread);
            }
            if *seen != state {
                (*seen, *since) = (state, now);
            }
            false
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn position(&self, thread: u32) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.thread == thread)
    }
}

impl Place {
    /// Changes hands, if it is in those.
    fn pass(&self, from: u32, to: u32) -> bool {
        self.holder.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(places: usize) -> Floor {
        let places = (0..places).map(|_| Place::default()).collect();
        Floor { places, waiting: AtomicUsize::new(0), queue: Mutex::default() }
    }

    #[test]
    fn a_place_has_one_holder() {
        let floor = floor(2);
        assert_eq!((floor.take(1), floor.take(2), floor.take(3)), (Some(0), Some(1), None));
        floor.leave(0, 2);
        assert_eq!(floor.take(3), None, "it wasn't its own");
        floor.leave(0, 1);
        assert_eq!(floor.take(3), Some(0));
    }

    #[test]
    fn who_waits_is_given_the_place() {
        let floor = floor(1);
        assert_eq!(floor.take(1), Some(0));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| floor.wait(2, &Arc::default(), None));
            // It may have found it unused already, on a busy machine.
            while floor.waiting.load(Ordering::SeqCst) == 0 && !waiter.is_finished() {
                // Its holder uses it.
                floor.places[0].runs.fetch_add(1, Ordering::Relaxed);
            }
            floor.leave(0, 1);
            assert_eq!(waiter.join().unwrap(), Some(0));
        });
        assert_eq!(floor.places[0].holder.load(Ordering::SeqCst), 2);
        assert_eq!(floor.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_unused_place_is_taken_away() {
        let floor = floor(1);
        assert_eq!(floor.take(1), Some(0));
        assert_eq!(floor.wait(2, &Arc::default(), None), Some(0));
        floor.leave(0, 1);
        assert_eq!(floor.places[0].holder.load(Ordering::SeqCst), 2, "not the first one's any more");
        let mut seen = Seen::new();
        assert_eq!(floor.take_unused(3, &mut seen), None, "it may be in use");
        std::thread::sleep(UNUSED);
        assert_eq!(floor.take_unused(3, &mut seen), Some(0));
    }

    #[test]
    fn a_waiter_can_be_kicked_and_goes_when_its_time_is_over() {
        let floor = floor(0);
        let notice = Arc::<Notice>::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| floor.wait(1, &notice, None));
            while floor.waiting.load(Ordering::SeqCst) == 0 {}
            notice.kick();
            assert_eq!(waiter.join().unwrap(), None);
        });
        assert!(notice.take_kick());
        assert!(!notice.take_kick());
        assert_eq!(floor.wait(1, &notice, Some(Instant::now() + SLICE)), None);
        assert!(floor.queue().waiters.is_empty());
    }

    #[test]
    fn nobody_is_forgotten() {
        let floor = floor(2);
        let turns = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 1..=16 {
                let (floor, turns) = (&floor, &turns);
                scope.spawn(move || {
                    let notice = Arc::default();
                    for _ in 0..200 {
                        let taken = floor.take(thread).or_else(|| floor.wait(thread, &notice, None));
                        turns.fetch_add(1, Ordering::Relaxed);
                        floor.leave(taken.expect("nobody kicks"), thread);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 16 * 200);
        assert_eq!(floor.waiting.load(Ordering::SeqCst), 0);
        assert!(floor.places.iter().all(|place| place.holder.load(Ordering::SeqCst) == 0));
    }
}
