//! Shared memory that several cores of one instant would hold.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::plan::Planned;

/// Which core holds which part of which file or shared memory object. The first that asks for it writes it.
#[derive(Debug, Default)]
pub(super) struct SharedMemory {
    at_stop: Holders,
    meanwhile: Holders,
}

/// Who holds what at one moment.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<BTreeMap<Object, Vec<Held>>>);

/// A file: device and inode, as in /proc/PID/maps.
type Object = ((u32, u32), u64);

#[derive(Debug)]
struct Held {
    /// Offsets in the object, in bytes.
    begin: u64,
    end: u64,
    by: String,
}

impl SharedMemory {
    /// As of the instant.
    pub(super) fn held_by(&self, planned: &Planned, name: &str) -> Option<String> {
        self.at_stop.held_by(planned, name)
    }

    /// Before it, while memory is copied that may be somewhere else by then.
    pub(super) fn meanwhile(&self) -> &Holders {
        &self.meanwhile
    }

    /// A core that is not to be kept holds nothing for others.
    pub(super) fn forget(&self, name: &str) {
        self.at_stop.forget(name);
        self.meanwhile.forget(name);
    }
}

impl Holders {
    /// The core that holds all of what this mapping would put into core `name`; `None` if that is `name` itself.
    pub(super) fn held_by(&self, planned: &Planned, name: &str) -> Option<String> {
        let mapping = &planned.mapping;
        if !planned.traits.is_shared || planned.dumped_bytes == 0 || mapping.inode == 0 {
            return None;
        }
        let (begin, end) = (mapping.offset, mapping.offset + planned.dumped_bytes);
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = objects.entry((mapping.device, mapping.inode)).or_default();
        // Another place in the same process is another segment of the same core: that is to be readable, too.
        let has = |held: &&Held| held.by != name && held.begin <= begin && end <= held.end;
        if let Some(there) = held.iter().find(has) {
            return Some(there.by.clone());
        }
        if !held.iter().any(|held| held.by == name && held.begin <= begin && end <= held.end) {
            held.push(Held { begin, end, by: name.to_owned() });
        }
        None
    }

    fn forget(&self, name: &str) {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        objects.values_mut().for_each(|held| held.retain(|held| held.by != name));
    }
}
