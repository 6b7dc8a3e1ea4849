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
    /// How changes will be noticed by `dump --level converge`, as its `--tracking` names it: write-protect, soft-dirty or none.
    pub(crate) tracking: &'static str,
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
        let tracking = match () {
            () if !traced => "none",
            () if has("write-tracking") => "write-protect",
            () if has("soft-dirty") => "soft-dirty",
            () => "none",
        };
        let mut dump_levels = if traced { vec!["snapshot", "frozen", "fuzzy"] } else { vec![] };
        if tracking != "none" {
            dump_levels.insert(0, "converge");
        }
        Self { mechanism, zero_copy: matches!(mechanism, "native" | "agent"), tracking, dump_levels }
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
            levels => {
                let changes = match self.tracking {
                    "write-protect" => "changes are noticed by write protection, without a stop",
                    "soft-dirty" => "changes are noticed by soft-dirty bits, with a short stop for each look",
                    _ => "changes can't be noticed, so nothing converges",
                };
                format!("{memory}; {changes}; dump levels: {}.", levels.join(", "))
            }
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

    #[test]
    fn tracking() {
        let all = verdict(&["ptrace-seize", "write-tracking", "soft-dirty"]);
        assert_eq!((all.tracking, all.dump_levels[0]), ("write-protect", "converge"));
        let soft = verdict(&["ptrace-seize", "soft-dirty"]);
        assert_eq!((soft.tracking, soft.dump_levels[0]), ("soft-dirty", "converge"));
        assert!(soft.sentence().contains("soft-dirty bits"));
        let none = verdict(&["ptrace-seize"]);
        assert_eq!((none.tracking, none.dump_levels.len()), ("none", 3));
        assert_eq!(verdict(&["write-tracking", "soft-dirty"]).tracking, "none");
    }
}
