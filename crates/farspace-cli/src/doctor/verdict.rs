//! What the capabilities add up to.

use serde::Serialize;

use super::{Capability, Found};

/// What farspace will do on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// How memory will be read: native, agent, pidmem, readv or none.
    pub(crate) mechanism: &'static str,
    /// Whether bytes reach the pipe uncopied.
    pub(crate) zero_copy: bool,
    /// The dump levels that work.
    pub(crate) dump_levels: Vec<&'static str>,
}

impl From<&[Capability]> for Verdict {
    fn from(capabilities: &[Capability]) -> Self {
        let has = |name| capabilities.iter().any(|c| c.name == name && c.found == Found::Yes);
        let is_stock = capabilities.iter().any(|c| c.name == "backend" && c.detail == "stock");
        let traced = has("ptrace-seize");
        let mechanism = match () {
            () if has("process_vmsplice") && !is_stock => "native",
            () if traced && has("vmsplice-zero-copy") => "agent",
            () if has("proc-mem-read") => "pidmem",
            () if has("process_vm_readv") => "readv",
            () => "none",
        };
        let dump_levels = if traced { vec!["snapshot", "frozen", "fuzzy"] } else { vec![] };
        Self { mechanism, zero_copy: matches!(mechanism, "native" | "agent"), dump_levels }
    }
}

impl Verdict {
    /// One sentence.
    pub(crate) fn sentence(&self) -> String {
        let memory = match self.mechanism {
            "native" => "memory is read by the kernel's own process_vmsplice, uncopied",
            "agent" => "memory is read by an agent in the target, uncopied",
            "pidmem" => "memory is copied through /proc/PID/mem",
            "readv" => "memory is copied by process_vm_readv",
            _ => "memory of other processes can't be read",
        };
        match self.dump_levels.as_slice() {
            [] => format!("{memory}; dumps need ptrace, which is not allowed here."),
            levels => format!("{memory}; dump levels: {}.", levels.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(names: &[&'static str]) -> Verdict {
        let found: Vec<_> = names.iter().map(|name| Capability::new(name, true, "", "")).collect();
        Verdict::from(found.as_slice())
    }

    #[test]
    fn ladder() {
        assert_eq!(verdict(&["process_vmsplice", "proc-mem-read"]).mechanism, "native");
        let mut forced = vec![Capability::new("process_vmsplice", true, "", "")];
        forced.push(Capability::new("backend", true, "stock", ""));
        assert_eq!(Verdict::from(forced.as_slice()).mechanism, "none");
        assert_eq!(verdict(&["ptrace-seize", "vmsplice-zero-copy", "proc-mem-read"]).mechanism, "agent");
        assert_eq!(verdict(&["vmsplice-zero-copy", "proc-mem-read"]).mechanism, "pidmem");
        assert_eq!(verdict(&["process_vm_readv"]).mechanism, "readv");
        assert_eq!(verdict(&[]).mechanism, "none");
    }
}
