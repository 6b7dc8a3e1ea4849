//! stats-dump: what a dump cost.

use std::io::{Read, Write};
use std::time::Duration;

use super::CriuError;
use super::message::{DumpStatsEntry, StatsEntry};
use super::stream::{Kind, read_single, write_magic, write_message};

/// What stats-dump says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DumpStats {
    /// How long it took to stop the processes.
    pub freezing: Duration,
    /// How long they stood still.
    pub frozen: Duration,
    /// Time to find and reach the pages.
    pub memory_dump: Duration,
    /// Time to write them.
    pub memory_write: Duration,
    /// Pages that were looked at.
    pub pages_scanned: u64,
    /// Pages that the parent has.
    pub pages_skipped_parent: u64,
    /// Pages of processes that were written.
    pub pages_written: u64,
    /// Pages of shared memory objects that were written.
    pub shared_pages_written: u64,
}

impl DumpStats {
    /// Writes the file.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> Result<(), CriuError> {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let dump = DumpStatsEntry {
            freezing_time: micros(self.freezing),
            frozen_time: micros(self.frozen),
            memdump_time: micros(self.memory_dump),
            memwrite_time: micros(self.memory_write),
            pages_scanned: self.pages_scanned,
            pages_skipped_parent: self.pages_skipped_parent,
            pages_written: self.pages_written,
            pages_lazy: 0,
            shpages_written: Some(self.shared_pages_written),
        };
        write_magic(Kind::Stats, to)?;
        write_message(&StatsEntry { dump: Some(dump) }, to)
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It isn't one, or damaged.
    pub fn read(from: &mut impl Read) -> Result<Self, CriuError> {
        let entry: StatsEntry = read_single(Kind::Stats, from)?;
        let dump = entry.dump.ok_or(CriuError::Empty)?;
        let time = |micros: u32| Duration::from_micros(micros.into());
        Ok(Self {
            freezing: time(dump.freezing_time),
            frozen: time(dump.frozen_time),
            memory_dump: time(dump.memdump_time),
            memory_write: time(dump.memwrite_time),
            pages_scanned: dump.pages_scanned,
            pages_skipped_parent: dump.pages_skipped_parent,
            pages_written: dump.pages_written,
            shared_pages_written: dump.shpages_written.unwrap_or(0),
        })
    }
}
