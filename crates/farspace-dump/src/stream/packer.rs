//! zstd, block by block: for links that are slower than the processor.

use std::io;

use super::frame::MAX_PACKED;

/// Packs blocks of at most [`MAX_PACKED`] bytes. The pages are copied out of the target for it.
pub(crate) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    /// For this level of zstd.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let zstd = zstd::bulk::Compressor::new(level)?;
        let packed = vec![0; most_packed() as usize];
        Ok(Self { zstd, plain: Vec::with_capacity(MAX_PACKED as usize), packed })
    }

    /// Packs what `fill` puts into the buffer; and what it returns.
    pub(crate) fn pack<T>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> T) -> (io::Result<&[u8]>, T) {
        self.plain.clear();
        let filled = fill(&mut self.plain);
        let len = self.zstd.compress_to_buffer(&self.plain, &mut self.packed[..]);
        (len.map(|len| &self.packed[..len]), filled)
    }
}

/// Unpacks such blocks.
pub(crate) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Unpacker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, plain: vec![0; MAX_PACKED as usize] })
    }

    /// Unpacks a block, if it has exactly `len` bytes, at most [`MAX_PACKED`].
    pub(crate) fn unpack(&mut self, packed: &[u8], len: usize) -> Option<&[u8]> {
        let buffer = self.plain.get_mut(..len)?;
        let done = self.zstd.decompress_to_buffer(packed, buffer).ok()?;
        (done == len).then(|| &self.plain[..len])
    }
}

/// Bytes that a packed block has at most.
pub(crate) fn most_packed() -> u64 {
    zstd::zstd_safe::compress_bound(MAX_PACKED as usize) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(bytes in prop::collection::vec(any::<u8>(), 0..5000), level in -5i32..8) {
            let mut packer = Packer::new(level).expect("a level");
            let (packed, ()) = packer.pack(|into| into.extend(&bytes));
            let packed = packed.expect("room").to_vec();
            let mut unpacker = Unpacker::new().expect("memory");
            prop_assert_eq!(unpacker.unpack(&packed, bytes.len()), Some(bytes.as_slice()));
            prop_assert_eq!(unpacker.unpack(&packed, bytes.len() + 1), None);
        }

        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000), len in 0..3_000_000usize) {
            let mut unpacker = Unpacker::new().expect("memory");
            if let Some(plain) = unpacker.unpack(&bytes, len) {
                prop_assert_eq!(plain.len(), len);
            }
        }
    }
}
