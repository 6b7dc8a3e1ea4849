//! Which targets this process is attached to, so that not each call attaches.
//!
//! A child of fork(2) begins with an empty table: what its parent has mapped there is shared, and the agents are its
//! parent's. It closes their sockets (pthread_atfork(3)), so that an agent notices the end of the parent.
//!
//! Locks: `attaching` before `entries`.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use farspace_sys::{memory, own, process};
use rustix::io::Errno;

use super::attachment::Attachment;

/// How often to look for attachments that weren't used since.
const SWEEP: Duration = Duration::from_millis(500);
/// Sockets that a child can be told to close.
const SOCKETS: usize = 256;

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());
static OPEN: [AtomicI32; SOCKETS] = [const { AtomicI32::new(-1) }; SOCKETS];

/// The attachments of one process. Never freed: after a fork its locks may be held by threads that aren't there.
#[derive(Debug)]
struct Table {
    owner: i32,
    /// Held while a new target is attached to.
    attaching: Mutex<()>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// By the pid that the caller used, which may be that of a thread.
    by_pid: HashMap<i32, Arc<Entry>>,
    has_sweeper: bool,
}

/// An attachment whose socket is known to [`OPEN`].
#[derive(Debug)]
struct Entry {
    attachment: Arc<Attachment>,
    slot: Option<usize>,
}

/// The attachment to a process; a new one if there is none, or if it has executed another program since.
///
/// # Errors
///
/// ESRCH: no such process; EPERM: it may not be accessed; EOPNOTSUPP: it is this process, or can't be visited; ENOMEM.
pub(super) fn attached(pid: i32) -> Result<Arc<Attachment>, Errno> {
    let table = Table::current();
    // Either says both: that the memory is this, and that it may be accessed. The first takes half as long.
    if let Some(attachment) = table.get(pid)
        && (attachment.is_of(pid) || attachment.is_reached(pid))
    {
        return Ok(attachment);
    }
    memory::check_access(pid).map_err(|error| error.errno)?;
    if let Some(attachment) = table.find(pid) {
        return Ok(attachment);
    }
    let _attaching = table.attaching.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(attachment) = table.find(pid) {
        return Ok(attachment);
    }
    let process = process::status(pid).map_err(|error| error.errno)?.tgid;
    if process == table.owner {
        return Err(Errno::OPNOTSUPP);
    }
    let entry = match table.entries().by_pid.get(&process) {
        // Named by a thread, for the first time.
        Some(entry) if process != pid && entry.attachment.is_of(process) => Arc::clone(entry),
        _ => Arc::new(Entry::new(Attachment::new(process)?)),
    };
    let attachment = Arc::clone(&entry.attachment);
    let mut entries = table.entries();
    let replaced = [entries.by_pid.insert(pid, Arc::clone(&entry)), entries.by_pid.insert(process, entry)];
    if !entries.has_sweeper {
        // All signals are blocked in this thread, and so in that one.
        let sweeper = std::thread::Builder::new().name("farspace-sweeper".to_owned());
        entries.has_sweeper = sweeper.spawn(|| table.sweep()).is_ok();
    }
    drop(entries);
    // Old ones end outside of the lock.
    drop(replaced);
    Ok(attachment)
}

/// Leaves all targets in which no call runs.
pub(super) fn leave_idle() {
    let table = Table::current();
    let idle = table.entries().take(|entry| Arc::strong_count(&entry.attachment) == 1);
    drop(idle);
}

impl Table {
    fn current() -> &'static Self {
        let own = own::pid();
        loop {
            let current = TABLE.load(Ordering::Acquire);
            // SAFETY: null or a table that was leaked below.
            if let Some(table) = unsafe { current.as_ref() }
                && table.owner == own
            {
                return table;
            }
            close_in_children();
            let new = Self { owner: own, attaching: Mutex::default(), entries: Mutex::default() };
            let new = Box::into_raw(Box::new(new));
            if TABLE.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // SAFETY: made above, and seen by nobody else.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attachment, of use or not.
    fn get(&self, pid: i32) -> Option<Arc<Attachment>> {
        self.entries().by_pid.get(&pid).map(|entry| Arc::clone(&entry.attachment))
    }

    /// The attachment, if there is one that is still of use; one that isn't is given up.
    fn find(&self, pid: i32) -> Option<Arc<Attachment>> {
        let attachment = self.get(pid)?;
        if attachment.is_of(pid) {
            return Some(attachment);
        }
        let mut entries = self.entries();
        let gone = entries.take(|entry| Arc::ptr_eq(&entry.attachment, &attachment));
        drop(entries);
        drop(attachment);
        drop(gone);
        None
    }

    /// Leaves targets that aren't used any more, until there is none.
    fn sweep(&self) {
        loop {
            std::thread::sleep(SWEEP);
            let mut entries = self.entries();
            let idle = entries
                .take(|entry| Arc::strong_count(&entry.attachment) == 1 && !entry.attachment.was_used());
            let is_over = entries.by_pid.is_empty();
            entries.has_sweeper = !is_over;
            drop(entries);
            drop(idle);
            if is_over {
                return;
            }
        }
    }
}

impl Entries {
    /// Removes entries, under all their pids.
    fn take(&mut self, mut is_wanted: impl FnMut(&Entry) -> bool) -> Vec<Arc<Entry>> {
        let mut verdicts: HashMap<*const Attachment, bool> = HashMap::new();
        let mut taken = Vec::new();
        self.by_pid.retain(|_, entry| {
            let verdict = *verdicts.entry(Arc::as_ptr(&entry.attachment)).or_insert_with(|| is_wanted(entry));
            if verdict {
                taken.push(Arc::clone(entry));
            }
            !verdict
        });
        taken
    }
}

impl Entry {
    fn new(attachment: Attachment) -> Self {
        let socket = attachment.agent().socket().as_raw_fd();
        let free = |slot: &AtomicI32| {
            slot.compare_exchange(-1, socket, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let slot = OPEN.iter().position(free);
        Self { attachment: Arc::new(attachment), slot }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.and_then(|slot| OPEN.get(slot)) {
            slot.store(-1, Ordering::Relaxed);
        }
    }
}

/// Has the agents' sockets closed in children that are forked from now on.
fn close_in_children() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler makes system calls and uses atomics only, as is allowed after a fork.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(close_sockets));
    });
}

extern "C" fn close_sockets() {
    for slot in &OPEN {
        let socket = slot.swap(-1, Ordering::Relaxed);
        if socket >= 0 {
            // SAFETY: the table that owned it is not used in this process, and never freed.
            unsafe { libc::close(socket) };
        }
    }
}
