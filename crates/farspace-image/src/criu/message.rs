//! The messages, field by field (images/pagemap.proto, inventory.proto and stats.proto of CRIU 3.17.1: their numbers
//! and types are the format).

/// First message of a pagemap: `pagemap_head`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PagemapHead {
    /// N of pages-N.img.
    #[prost(uint32, required, tag = "1")]
    pub(super) pages_id: u32,
}

/// Each further message of it: `pagemap_entry`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PagemapEntry {
    #[prost(uint64, required, tag = "1")]
    pub(super) vaddr: u64,
    #[prost(uint32, required, tag = "2")]
    pub(super) nr_pages: u32,
    /// Before there were flags.
    #[prost(bool, optional, tag = "3")]
    pub(super) in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) flags: Option<u32>,
}

/// The one message of inventory.img: `inventory_entry`, without what only a full dump says.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct InventoryEntry {
    #[prost(uint32, required, tag = "1")]
    pub(super) img_version: u32,
    #[prost(uint64, optional, tag = "8")]
    pub(super) dump_uptime: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    pub(super) pre_dump_mode: Option<u32>,
}

/// The one message of stats-dump: `stats_entry`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StatsEntry {
    #[prost(message, optional, tag = "1")]
    pub(super) dump: Option<DumpStatsEntry>,
}

/// `dump_stats_entry`; times in us.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct DumpStatsEntry {
    #[prost(uint32, required, tag = "1")]
    pub(super) freezing_time: u32,
    #[prost(uint32, required, tag = "2")]
    pub(super) frozen_time: u32,
    #[prost(uint32, required, tag = "3")]
    pub(super) memdump_time: u32,
    #[prost(uint32, required, tag = "4")]
    pub(super) memwrite_time: u32,
    #[prost(uint64, required, tag = "5")]
    pub(super) pages_scanned: u64,
    #[prost(uint64, required, tag = "6")]
    pub(super) pages_skipped_parent: u64,
    #[prost(uint64, required, tag = "7")]
    pub(super) pages_written: u64,
    #[prost(uint64, required, tag = "9")]
    pub(super) pages_lazy: u64,
    #[prost(uint64, optional, tag = "14")]
    pub(super) shpages_written: Option<u64>,
}
