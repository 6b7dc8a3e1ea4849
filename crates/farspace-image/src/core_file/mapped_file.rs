//! NT_FILE: which file is mapped where.

use super::PAGE_SIZE;

/// The longest NT_FILE descriptor in bytes, the kernel's default (core_file_note_size_limit, fs/coredump.c).
pub const FILE_NOTE_MAX: usize = 4 << 20;
/// The words `count` and `page_size` before the table.
const HEAD_LEN: usize = 16;
/// The words `start`, `end` and `file_ofs` of one mapping.
const ENTRY_LEN: usize = 24;

/// One mapping of a file (fill_files_note in fs/binfmt_elf.c).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedFile {
    /// The first address in the target.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// Where in the file the mapping begins, in pages of [`PAGE_SIZE`] bytes.
    pub page_offset: u64,
    /// The path, without the escapes of `/proc/PID/maps`; a NUL ends it.
    pub path: Vec<u8>,
}

impl MappedFile {
    fn name(&self) -> &[u8] {
        self.path.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// How many of `files`, from the first, fit into a descriptor of [`FILE_NOTE_MAX`] bytes.
///
/// The kernel leaves out the whole note if it is too long. The low addresses of a long list are still worth more
/// than nothing: the main program is among them.
pub(super) fn nr_fitting(files: &[MappedFile]) -> usize {
    let mut len = HEAD_LEN;
    files
        .iter()
        .take_while(|file| {
            len += ENTRY_LEN + file.name().len() + 1;
            len <= FILE_NOTE_MAX
        })
        .count()
}

/// The descriptor of NT_FILE for `files`.
pub(super) fn descriptor(files: &[MappedFile]) -> Vec<u8> {
    let names_len: usize = files.iter().map(|file| file.name().len() + 1).sum();
    let mut out = Vec::with_capacity(HEAD_LEN + files.len() * ENTRY_LEN + names_len);
    out.extend((files.len() as u64).to_le_bytes());
    out.extend(PAGE_SIZE.to_le_bytes());
    for file in files {
        for word in [file.start, file.end, file.page_offset] {
            out.extend(word.to_le_bytes());
        }
    }
    for file in files {
        out.extend(file.name());
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_then_names() {
        let files = [
            MappedFile { start: 0x1000, end: 0x3000, page_offset: 2, path: b"/bin/a".to_vec() },
            MappedFile { start: 0x3000, end: 0x4000, page_offset: 0, path: b"/b\0junk".to_vec() },
        ];
        let bytes = descriptor(&files);
        let words: Vec<u64> =
            bytes[..64].chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(words, [2, 4096, 0x1000, 0x3000, 2, 0x3000, 0x4000, 0]);
        assert_eq!(&bytes[64..], b"/bin/a\0/b\0");
    }

    #[test]
    fn a_long_list_is_cut_at_the_limit() {
        let files = vec![MappedFile { path: vec![b'x'; 999], ..MappedFile::default() }; 5000];
        let nr = nr_fitting(&files);
        assert!(nr < files.len());
        assert!(descriptor(&files[..nr]).len() <= FILE_NOTE_MAX);
        assert!(descriptor(&files[..nr + 1]).len() > FILE_NOTE_MAX);
        assert_eq!(nr_fitting(&files[..10]), 10);
    }
}
