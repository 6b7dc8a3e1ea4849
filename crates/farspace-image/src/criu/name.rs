//! Names of the files in an image directory (image_desc.c of CRIU 3.17.1).

use std::fmt;

/// When the images were made.
pub const INVENTORY: &str = "inventory.img";
/// Symbolic link to the directory with the pages that are left out.
pub const PARENT: &str = "parent";
/// What the dump cost.
pub const STATS: &str = "stats-dump";

/// The memory that a pagemap describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageId {
    /// A process, by its pid in the pid namespace of whoever dumps.
    Process(u32),
    /// A shared memory object, by its inode number.
    Shared(u64),
}

impl ImageId {
    /// The name of its pagemap.
    pub fn pagemap_name(self) -> String {
        match self {
            Self::Process(pid) => format!("pagemap-{pid}.img"),
            Self::Shared(inode) => format!("pagemap-shmem-{inode}.img"),
        }
    }

    /// What a name is the pagemap of, if it is one's.
    pub fn from_pagemap_name(name: &str) -> Option<Self> {
        let id = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
        let found = match id.strip_prefix("shmem-") {
            Some(inode) => Self::Shared(inode.parse().ok()?),
            None => Self::Process(id.parse().ok()?),
        };
        // Digits have one form only.
        (found.pagemap_name() == name).then_some(found)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Shared(inode) => write!(f, "shared memory {inode}"),
        }
    }
}

/// The name of the pages file that a pagemap's head names.
pub fn pages_name(pages_id: u32) -> String {
    format!("pages-{pages_id}.img")
}
