//! The address space as /proc/self/smaps tells it.

use std::fs;

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    perms: String,
    name: String,
    /// Registered with a userfaultfd (smaps VmFlags um, uw, ui).
    tracked: bool,
}

impl Mapping {
    fn parse(header: &str) -> Option<Self> {
        let mut words = header.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let perms = words.next()?.to_owned();
        let name = words.skip(3).collect::<Vec<_>>().join(" ");
        Some(Self { start, end, perms, name, tracked: false })
    }

    /// Heap and stack grow by themselves.
    fn grows(&self) -> bool {
        self.name == "[heap]" || self.name == "[stack]"
    }
}

/// All mappings of this process, in order.
pub(crate) fn read() -> Result<Vec<Mapping>, String> {
    let text = fs::read_to_string("/proc/thread-self/smaps").map_err(|e| format!("/proc/self/smaps: {e}"))?;
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(last) = mappings.last_mut() {
                last.tracked = flags.split_whitespace().any(|f| matches!(f, "um" | "uw" | "ui"));
            }
        } else if let Some(mapping) = Mapping::parse(line) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

/// What wasn't there before; nothing for heap and stack that have grown.
pub(crate) fn added(before: &[Mapping], now: &[Mapping]) -> String {
    // A heap that appeared with the first allocation is growth too.
    let is_new = |m: &&Mapping| m.name != "[heap]" && !before.iter().any(|b| same(b, m));
    now.iter().filter(is_new).map(|m| format!(" +{}", describe(m))).collect()
}

/// What isn't there any more.
pub(crate) fn removed(before: &[Mapping], now: &[Mapping]) -> String {
    let is_gone = |m: &&Mapping| !now.iter().any(|n| same(m, n));
    before.iter().filter(is_gone).map(|m| format!(" -{}", describe(m))).collect()
}

fn same(a: &Mapping, b: &Mapping) -> bool {
    a == b || (a.grows() && a.name == b.name && a.tracked == b.tracked && a.perms == b.perms)
}

/// A mapping that is registered with a userfaultfd though it wasn't before.
pub(crate) fn newly_tracked(before: &[Mapping], now: &[Mapping]) -> Option<String> {
    let old = |m: &Mapping| before.iter().any(|b| b.tracked && b.start <= m.start && m.end <= b.end);
    now.iter().find(|m| m.tracked && !old(m)).map(describe)
}

fn describe(m: &Mapping) -> String {
    let tracked = if m.tracked { " (userfaultfd)" } else { "" };
    format!("[{:x}-{:x} {} {}{tracked}]", m.start, m.end, m.perms, m.name)
}
