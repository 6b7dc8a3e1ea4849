//! The auxiliary vector of a 64-bit process, as `/proc/PID/auxv` gives it (getauxval(3), proc(5)).

/// The address of the vDSO's ELF header in the target (`AT_SYSINFO_EHDR`, getauxval(3)).
pub const AT_SYSINFO_EHDR: u64 = 33;
/// The address of the main program's program headers in the target (`AT_PHDR`, getauxval(3)).
pub const AT_PHDR: u64 = 3;
/// The address where the main program starts (`AT_ENTRY`, getauxval(3)).
pub const AT_ENTRY: u64 = 9;

/// Length of one entry in bytes: a `u64` type and a `u64` value (`Elf64_auxv_t`, elf(5)).
pub const ENTRY_LEN: usize = 16;

/// The entries `(type, value)` in `bytes` up to, and without, the terminating `AT_NULL`.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    bytes
        .chunks_exact(ENTRY_LEN)
        .map(|entry| (word(&entry[..8]), word(&entry[8..])))
        .take_while(|entry| entry.0 != 0)
}

/// The value of the first entry of type `kind` in `bytes`, if there is one.
pub fn value(bytes: &[u8], kind: u64) -> Option<u64> {
    entries(bytes).find(|entry| entry.0 == kind).map(|entry| entry.1)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auxv(entries: &[(u64, u64)]) -> Vec<u8> {
        entries.iter().flat_map(|e| [e.0.to_le_bytes(), e.1.to_le_bytes()].concat()).collect()
    }

    #[test]
    fn entries_end_at_the_terminator() {
        let bytes = auxv(&[(AT_PHDR, 0x40), (AT_ENTRY, 0x1234_5678_9abc), (0, 0), (AT_SYSINFO_EHDR, 1)]);
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), [(AT_PHDR, 0x40), (AT_ENTRY, 0x1234_5678_9abc)]);
        assert_eq!(value(&bytes, AT_ENTRY), Some(0x1234_5678_9abc));
        assert_eq!(value(&bytes, AT_SYSINFO_EHDR), None);
    }

    #[test]
    fn a_cut_entry_is_ignored() {
        let bytes = auxv(&[(AT_PHDR, 0x40), (AT_ENTRY, 1)]);
        assert_eq!(entries(&bytes[..31]).count(), 1);
        assert_eq!(entries(&[]).count(), 0);
    }
}
