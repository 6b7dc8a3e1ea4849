//! Magic numbers and messages behind their lengths.

use std::io::{ErrorKind, Read, Write};

use prost::Message;

use super::CriuError;

/// What an image begins with (criu/include/magic.h of CRIU 3.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// inventory.img: its own number alone, in all versions.
    Inventory,
    /// pagemap-*.img: that of all images, then its own.
    Pagemap,
    /// stats-dump: that of all service files, then its own.
    Stats,
}

impl Kind {
    fn magic(self) -> &'static [u32] {
        const IMG_COMMON_MAGIC: u32 = 0x5456_4319;
        const IMG_SERVICE_MAGIC: u32 = 0x5510_5940;
        match self {
            Self::Inventory => &[0x5831_3116],
            Self::Pagemap => &[IMG_COMMON_MAGIC, 0x5608_4025],
            Self::Stats => &[IMG_SERVICE_MAGIC, 0x5709_3306],
        }
    }

    /// The longest message that is believed, in bytes. A pagemap's have four numbers; the others' are single.
    fn longest(self) -> u32 {
        match self {
            Self::Pagemap => 256,
            Self::Inventory | Self::Stats => 64 << 10,
        }
    }
}

/// Writes what an image begins with.
pub(super) fn write_magic(kind: Kind, to: &mut impl Write) -> Result<(), CriuError> {
    kind.magic().iter().try_for_each(|magic| to.write_all(&magic.to_le_bytes()))?;
    Ok(())
}

/// Writes a message behind its length.
pub(super) fn write_message(message: &impl Message, to: &mut impl Write) -> Result<(), CriuError> {
    let bytes = message.encode_to_vec();
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    to.write_all(&bytes)?;
    Ok(())
}

/// Reads what an image must begin with.
pub(super) fn read_magic(kind: Kind, from: &mut impl Read) -> Result<(), CriuError> {
    for &wanted in kind.magic() {
        let found = read_u32(from)?.ok_or(CriuError::Empty)?;
        if found != wanted {
            return Err(CriuError::Magic { wanted, found });
        }
    }
    Ok(())
}

/// Reads the next message; `None` at the end of the file.
pub(super) fn read_message<M: Message + Default>(
    kind: Kind,
    from: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> Result<Option<M>, CriuError> {
    let Some(len) = read_u32(from)? else { return Ok(None) };
    let max = kind.longest();
    if len > max {
        return Err(CriuError::Long { len, max });
    }
    buffer.resize(len as usize, 0);
    from.read_exact(buffer).map_err(cut)?;
    Ok(Some(M::decode(buffer.as_slice())?))
}

/// Reads the only message.
pub(super) fn read_single<M: Message + Default>(kind: Kind, from: &mut impl Read) -> Result<M, CriuError> {
    read_magic(kind, from)?;
    read_message(kind, from, &mut Vec::new())?.ok_or(CriuError::Empty)
}

fn read_u32(from: &mut impl Read) -> Result<Option<u32>, CriuError> {
    let mut bytes = [0; 4];
    let first = loop {
        match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[first..]).map_err(cut)?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

fn cut(error: std::io::Error) -> CriuError {
    if error.kind() == ErrorKind::UnexpectedEof { CriuError::Cut } else { error.into() }
}
