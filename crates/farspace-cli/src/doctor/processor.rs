//! Processors: how many, and what state they carry.

use super::{Capability, Found};

/// CPUs that this process may really use: affinity and control groups count.
pub(super) fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) fn probe() -> Vec<Capability> {
    vec![cpus(), super::tracing::shadow_stack()]
}

fn cpus() -> Capability {
    let count = usable_cpus();
    if count > 1 {
        let meaning = "the agent fills one pipe while farspace empties another";
        return Capability::new("cpus", true, count.to_string(), meaning);
    }
    let meaning = "agent and farspace take turns: no overlap, no spinning";
    Capability::new("cpus", Found::Partly, "1", meaning)
        .remedy("give it a second CPU (taskset, cgroup cpu.max)")
}
