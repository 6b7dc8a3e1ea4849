//! The records of a stream, as bytes: encoding, and decoding of what a peer may have made up.
//!
//! All numbers are little endian. Nothing here reads more than a fixed number of bytes at a time, and every length and count
//! is checked before anything is made of it.

use farspace::Extent;

/// Length of a hello, of a record's head and of a reply's head, in bytes.
pub(crate) const HEAD: usize = 16;
/// Length of one extent in a record, in bytes.
pub(crate) const EXTENT: usize = 16;
/// Extents that one record may have.
pub(crate) const MAX_EXTENTS: usize = 1024;
/// Bytes of memory that one packed record may hold.
pub(crate) const MAX_PACKED: u64 = 1 << 20;
/// Bytes of a file's name, and of the text of a failure.
pub(crate) const MAX_NAME: usize = 255;
pub(crate) const MAX_TEXT: usize = 1024;
/// Bytes of a file of the parent images: a pagemap of a million runs has about 20 MiB.
pub(crate) const MAX_CONTENT: u64 = 256 << 20;
/// Files of one stream.
pub(crate) const MAX_FILES: u32 = 65_536;
/// Where a file can end at most: a process has 2^47 bytes of addresses.
pub(crate) const MAX_LEN: u64 = 1 << 48;

const MAGIC: [u8; 8] = *b"FARSPACE";
const VERSION: u16 = 2;

mod op {
    pub(super) const OPEN: u32 = 1;
    pub(super) const PAGES: u32 = 2;
    pub(super) const PACKED: u32 = 3;
    pub(super) const LENGTH: u32 = 4;
    pub(super) const SYNC: u32 = 5;
    pub(super) const END: u32 = 6;
    pub(super) const FAIL: u32 = 7;
    pub(super) const DISCARD: u32 = 8;
    pub(super) const ASK: u32 = 9;
    pub(super) const HOLES: u32 = 10;
    pub(super) const READY: u32 = 0x101;
    pub(super) const SYNCED: u32 = 0x102;
    pub(super) const DONE: u32 = 0x103;
    pub(super) const REFUSED: u32 = 0x104;
    pub(super) const CONTENT: u32 = 0x105;
    pub(super) const ABSENT: u32 = 0x106;
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One file.
    File,
    /// A directory of files.
    Directory,
}

/// What is wrong with bytes that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first bytes are something else.
    #[error("it doesn't speak farspace's protocol")]
    Protocol,
    /// Another version.
    #[error(
        "it speaks version {0} of the protocol, and this is version {ours}; use the same farspace on both sides",
        ours = VERSION
    )]
    Version(u16),
    /// A kind of stream or record that doesn't exist.
    #[error("it sent a record of the unknown kind {0}")]
    Kind(u32),
    /// A count that is 0 or too large.
    #[error("it announced {0} of something, which is none or too many")]
    Count(u64),
    /// A length or place that can't be.
    #[error("it announced {0} bytes, or a place there, which can't be")]
    Length(u64),
    /// A file that isn't open, or is twice.
    #[error("it wrote to file number {0} out of turn")]
    File(u32),
    /// A name that isn't one.
    #[error("it named a file in a way that leads elsewhere")]
    Name,
    /// The totals at the end.
    #[error("it ended the stream with other totals than what was received")]
    Totals,
    /// Compressed bytes that don't give what was announced.
    #[error("its compressed bytes don't give the pages that it announced")]
    Packed,
}

/// The first bytes of a stream.
pub(crate) fn hello(kind: Kind) -> [u8; HEAD] {
    let kind: u16 = match kind {
        Kind::File => 1,
        Kind::Directory => 2,
    };
    let mut bytes = [0; HEAD];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&kind.to_le_bytes());
    bytes
}

/// Reads the first bytes of a stream.
pub(crate) fn read_hello(bytes: &[u8; HEAD]) -> Result<Kind, Malformed> {
    let [version, kind] = [8, 10].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    match (bytes[..8] == MAGIC, version, kind) {
        (false, ..) => Err(Malformed::Protocol),
        (true, VERSION, 1) => Ok(Kind::File),
        (true, VERSION, 2) => Ok(Kind::Directory),
        (true, VERSION, kind) => Err(Malformed::Kind(kind.into())),
        (true, version, _) => Err(Malformed::Version(version)),
    }
}

/// The head of a record of the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The next file; so many bytes of name follow.
    Open { file: u32, name_len: usize },
    /// So many extents follow, then their bytes.
    Pages { file: u32, extents: usize },
    /// So many extents follow, then the length of the packed bytes (8 bytes), then those.
    Packed { file: u32, extents: usize },
    /// So many extents follow, which are holes from now on, whatever was written there.
    Holes { file: u32, extents: usize },
    /// The file ends here.
    Length { file: u32, len: u64 },
    /// For a file of the parent images; so many bytes of name follow.
    Ask { name_len: usize },
    /// The file is not to be kept.
    Discard { file: u32 },
    /// The receiver is to answer once it has taken everything until here.
    Sync { number: u64 },
    /// The stream is complete: files, and bytes of all extents.
    End { files: u32, bytes: u64 },
    /// The sender gives up; so many bytes of text follow.
    Fail { text_len: usize },
}

impl Record {
    pub(crate) fn encode(self) -> [u8; HEAD] {
        match self {
            Self::Open { file, name_len } => head(op::OPEN, file, name_len as u64),
            Self::Pages { file, extents } => head(op::PAGES, file, extents as u64),
            Self::Packed { file, extents } => head(op::PACKED, file, extents as u64),
            Self::Holes { file, extents } => head(op::HOLES, file, extents as u64),
            Self::Length { file, len } => head(op::LENGTH, file, len),
            Self::Ask { name_len } => head(op::ASK, 0, name_len as u64),
            Self::Discard { file } => head(op::DISCARD, file, 0),
            Self::Sync { number } => head(op::SYNC, 0, number),
            Self::End { files, bytes } => head(op::END, files, bytes),
            Self::Fail { text_len } => head(op::FAIL, 0, text_len as u64),
        }
    }

    pub(crate) fn decode(bytes: &[u8; HEAD]) -> Result<Self, Malformed> {
        let (op, file, value) = fields(bytes);
        let count = |max: usize| match usize::try_from(value) {
            Ok(count) if (1..=max).contains(&count) => Ok(count),
            _ => Err(Malformed::Count(value)),
        };
        Ok(match op {
            op::OPEN => Self::Open { file, name_len: count(MAX_NAME)? },
            op::PAGES => Self::Pages { file, extents: count(MAX_EXTENTS)? },
            op::PACKED => Self::Packed { file, extents: count(MAX_EXTENTS)? },
            op::HOLES => Self::Holes { file, extents: count(MAX_EXTENTS)? },
            op::LENGTH if value > MAX_LEN => return Err(Malformed::Length(value)),
            op::LENGTH => Self::Length { file, len: value },
            op::ASK => Self::Ask { name_len: count(MAX_NAME)? },
            op::DISCARD => Self::Discard { file },
            op::SYNC => Self::Sync { number: value },
            op::END => Self::End { files: file, bytes: value },
            op::FAIL => Self::Fail { text_len: count(MAX_TEXT)? },
            kind => return Err(Malformed::Kind(kind)),
        })
    }
}

/// What a receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// To the hello: go on.
    Ready,
    /// To a sync.
    Synced { number: u64 },
    /// To the end: everything has its name; bytes of all extents.
    Done { bytes: u64 },
    /// To an ask: so many bytes of the file follow.
    Content { len: usize },
    /// To an ask: there is no such file, or no parent.
    Absent,
    /// At any time: the receiver gives up; so many bytes of text follow.
    Refused { text_len: usize },
}

impl Reply {
    pub(crate) fn encode(self) -> [u8; HEAD] {
        match self {
            // Says more than a number, so that nothing else is taken for it.
            Self::Ready => head(op::READY, u32::from(VERSION), u64::from_le_bytes(MAGIC)),
            Self::Synced { number } => head(op::SYNCED, 0, number),
            Self::Done { bytes } => head(op::DONE, 0, bytes),
            Self::Content { len } => head(op::CONTENT, 0, len as u64),
            Self::Absent => head(op::ABSENT, 0, 0),
            Self::Refused { text_len } => head(op::REFUSED, 0, text_len as u64),
        }
    }

    pub(crate) fn decode(bytes: &[u8; HEAD]) -> Result<Self, Malformed> {
        let (op, version, value) = fields(bytes);
        match op {
            op::READY if value != u64::from_le_bytes(MAGIC) => Err(Malformed::Protocol),
            op::READY if version != u32::from(VERSION) => Err(Malformed::Version(version as u16)),
            op::READY => Ok(Self::Ready),
            op::SYNCED => Ok(Self::Synced { number: value }),
            op::DONE => Ok(Self::Done { bytes: value }),
            op::CONTENT if value <= MAX_CONTENT => Ok(Self::Content { len: value as usize }),
            op::CONTENT => Err(Malformed::Length(value)),
            op::ABSENT => Ok(Self::Absent),
            op::REFUSED if (1..=MAX_TEXT as u64).contains(&value) => {
                Ok(Self::Refused { text_len: value as usize })
            }
            op::REFUSED => Err(Malformed::Count(value)),
            _ => Err(Malformed::Protocol),
        }
    }
}

/// The extents of a record, as they follow its head.
pub(crate) fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    extents.iter().flat_map(|extent| [extent.offset, extent.len]).flat_map(u64::to_le_bytes).collect()
}

/// Reads extents; each lies below [`MAX_LEN`] and is not empty. Also their total length, at most `max_bytes`.
pub(crate) fn decode_extents(bytes: &[u8], max_bytes: u64) -> Result<(Vec<Extent>, u64), Malformed> {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut total = 0u64;
    let mut extents = Vec::with_capacity(bytes.len() / EXTENT);
    for pair in bytes.chunks_exact(EXTENT) {
        let (offset, len) = (number(&pair[..8]), number(&pair[8..]));
        let end = offset.checked_add(len).filter(|end| len > 0 && *end <= MAX_LEN);
        end.ok_or(Malformed::Length(len))?;
        total = total.saturating_add(len);
        extents.push(Extent { offset, len });
    }
    if total > max_bytes { Err(Malformed::Length(total)) } else { Ok((extents, total)) }
}

/// A file's name, if it stays in its directory: one plain component that isn't hidden.
pub(crate) fn check_name(bytes: &[u8]) -> Result<&str, Malformed> {
    let name = std::str::from_utf8(bytes).map_err(|_| Malformed::Name)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '@' | ',');
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Malformed::Name);
    }
    Ok(name)
}

/// Text of a peer's, fit for a terminal.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn head(op: u32, small: u32, large: u64) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..4].copy_from_slice(&op.to_le_bytes());
    bytes[4..8].copy_from_slice(&small.to_le_bytes());
    bytes[8..].copy_from_slice(&large.to_le_bytes());
    bytes
}

fn fields(bytes: &[u8; HEAD]) -> (u32, u32, u64) {
    let small = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (small(0), small(4), bytes[8..].try_into().map_or(0, u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let records = [
            Record::Open { file: 3, name_len: 255 },
            Record::Pages { file: 1, extents: 1024 },
            Record::Packed { file: u32::MAX, extents: 1 },
            Record::Holes { file: 2, extents: 1 },
            Record::Length { file: 0, len: MAX_LEN },
            Record::Discard { file: 5 },
            Record::Ask { name_len: 1 },
            Record::Sync { number: u64::MAX },
            Record::End { files: 9, bytes: u64::MAX },
            Record::Fail { text_len: 1024 },
        ];
        assert!(records.iter().all(|r| Record::decode(&r.encode()) == Ok(*r)));
        let replies = [
            Reply::Ready,
            Reply::Synced { number: 7 },
            Reply::Done { bytes: 8 },
            Reply::Content { len: 9 },
            Reply::Absent,
            Reply::Refused { text_len: 1 },
        ];
        assert!(replies.iter().all(|r| Reply::decode(&r.encode()) == Ok(*r)));
        assert!([Kind::File, Kind::Directory].iter().all(|k| read_hello(&hello(*k)) == Ok(*k)));
    }

    #[test]
    fn names_stay_where_they_are() {
        for good in ["core.1", "pages-1.img", "a_b+c@d,e"] {
            assert_eq!(check_name(good.as_bytes()), Ok(good));
        }
        for bad in ["", ".", "..", "../a", "a/b", ".hidden", "a\0b", "a\nb", "a\u{202e}b", "a b"] {
            assert_eq!(check_name(bad.as_bytes()), Err(Malformed::Name), "{bad:?}");
        }
        assert_eq!(check_name(b"\xff"), Err(Malformed::Name));
        assert_eq!(readable(b"no\x1b[31m space\n"), "no [31m space");
    }

    proptest! {
        /// Any bytes are a record within the limits, or an error; nothing in between.
        #[test]
        fn any_head(bytes: [u8; HEAD]) {
            match Record::decode(&bytes) {
                Ok(Record::Open { name_len, .. } | Record::Ask { name_len }) => prop_assert!((1..=MAX_NAME).contains(&name_len)),
                Ok(
                    Record::Pages { extents, .. } | Record::Packed { extents, .. } | Record::Holes { extents, .. },
                ) => {
                    prop_assert!((1..=MAX_EXTENTS).contains(&extents));
                }
                Ok(Record::Length { len, .. }) => prop_assert!(len <= MAX_LEN),
                Ok(Record::Fail { text_len }) => prop_assert!((1..=MAX_TEXT).contains(&text_len)),
                Ok(Record::Discard { .. } | Record::Sync { .. } | Record::End { .. }) | Err(_) => {}
            }
            let _ = (Reply::decode(&bytes), read_hello(&bytes));
        }

        #[test]
        fn near_heads(kind in 0u32..11, small: u32, large in prop_oneof![0u64..2000, (u64::MAX - 9)..=u64::MAX]) {
            if let Ok(record) = Record::decode(&head(kind, small, large)) {
                // What has a meaning is encoded the same way, but for fields that have none.
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }

        #[test]
        fn any_extents(pairs in prop::collection::vec((any::<u64>(), any::<u64>()), 0..8), max: u64) {
            let extents: Vec<_> = pairs.iter().map(|&(offset, len)| Extent { offset, len }).collect();
            if let Ok((read, total)) = decode_extents(&encode_extents(&extents), max) {
                prop_assert_eq!(&read, &extents);
                prop_assert!(total <= max && read.iter().all(|e| e.len > 0 && e.offset + e.len <= MAX_LEN));
            }
        }

        #[test]
        fn any_name(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = check_name(&bytes) {
                let path = std::path::Path::new(name);
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().and_then(|n| n.to_str()), Some(name));
            }
        }
    }
}
