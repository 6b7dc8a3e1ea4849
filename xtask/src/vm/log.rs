//! The kernel's messages, and those among them that mean that something is wrong.

/// What the kernel says when it has found a mistake of its own. User programs' faults (`traps: ...`, `segfault at`)
/// are not among them.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "INFO: possible ",
    "INFO: rcu",
    "INFO: task ",
    "INFO: trying to register non-static key",
    "INFO: NMI handler",
    "KASAN:",
    "KCSAN:",
    "UBSAN:",
    "Oops:",
    "Oops[",
    "Kernel panic",
    "kernel BUG at",
    "refcount_t:",
    "corruption",
    "lockup",
    "stack-protector",
    "bad: scheduling from",
    "detected stalls",
    "unreferenced object",
    "new suspected memory leaks",
    "held lock freed",
    "still has locks held",
    "Object already free",
    "Redzone overwritten",
    "Internal error",
];

/// The lines that are complaints.
pub(super) fn complaints(log: &str) -> Vec<String> {
    let is_complaint = |line: &&str| COMPLAINTS.iter().any(|known| line.contains(known));
    log.lines().map(str::trim_end).filter(is_complaint).map(str::to_owned).collect()
}

/// The last lines.
pub(super) fn tail(log: &str, nr_lines: usize) -> String {
    let lines: Vec<_> = log.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(nr_lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_of_the_kernel_are_complaints() {
        let log = "[    1.0] Linux version 6.12\n\
                   [    2.0] traps: victim[80] general protection fault ip:401000 sp:7ffd error:0\n\
                   [    2.1] victim[81]: segfault at 0 ip 0000000000401000\n\
                   [    3.0] BUG: sleeping function called from invalid context at mm/gup.c:1\n\
                   [    3.1] INFO: possible recursive locking detected\n\
                   [    4.0] kmemleak: unreferenced object 0xffff888004f9b000 (size 512):\n";
        assert_eq!(complaints(log).len(), 3);
        assert_eq!(tail(log, 1), "[    4.0] kmemleak: unreferenced object 0xffff888004f9b000 (size 512):");
    }
}
