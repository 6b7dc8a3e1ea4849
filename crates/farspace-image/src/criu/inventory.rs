//! inventory.img: when the images were made.

use std::io::{Read, Write};

use super::CriuError;
use super::message::InventoryEntry;
use super::stream::{Kind, read_single, write_magic, write_message};

/// CRTOOLS_IMAGES_V1_1: images begin with a common magic number.
const IMAGES_V1_1: u32 = 2;

/// How a pre-dump has read memory. It matters for memory without PROT_READ, which the second one skips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PreDumpMode {
    /// All of it, by mapping pages into pipes (PRE_DUMP_SPLICE).
    #[default]
    Splice,
    /// What process_vm_readv(2) can read (PRE_DUMP_READ).
    Read,
}

/// What inventory.img says of a pre-dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Time since boot when dirty tracking was begun anew, in us. A process that has started later is another one,
    /// whatever its pid is, and isn't in these images.
    pub dump_uptime_us: Option<u64>,
    /// How memory was read; `None` in older images.
    pub pre_dump_mode: Option<PreDumpMode>,
}

impl Inventory {
    /// Writes the image.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> Result<(), CriuError> {
        let mode = |mode| match mode {
            PreDumpMode::Splice => 1,
            PreDumpMode::Read => 2,
        };
        write_magic(Kind::Inventory, to)?;
        let entry = InventoryEntry {
            img_version: IMAGES_V1_1,
            dump_uptime: self.dump_uptime_us,
            pre_dump_mode: self.pre_dump_mode.map(mode),
        };
        write_message(&entry, to)
    }

    /// Reads the image, whoever has written it: CRIU's pre-dumps have no version.
    ///
    /// # Errors
    ///
    /// It isn't one, or damaged.
    pub fn read(from: &mut impl Read) -> Result<Self, CriuError> {
        let entry: InventoryEntry = read_single(Kind::Inventory, from)?;
        let pre_dump_mode = entry.pre_dump_mode.map(|mode| match mode {
            2 => PreDumpMode::Read,
            _ => PreDumpMode::Splice,
        });
        Ok(Self { dump_uptime_us: entry.dump_uptime, pre_dump_mode })
    }
}
