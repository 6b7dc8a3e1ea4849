//! Content that both sides can compute: a byte of a region is a function of the region's seed and its offset.

/// The eight bytes at word `index` of the pattern `seed` (splitmix64's finaliser).
pub fn word(seed: u64, index: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index).wrapping_add(1);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The byte at `offset`.
pub fn byte(seed: u64, offset: u64) -> u8 {
    word(seed, offset / 8).to_le_bytes()[(offset % 8) as usize]
}

/// `len` bytes from `offset`.
pub fn bytes(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| byte(seed, at)).collect()
}

/// The first offset (relative to `data`) that differs from the pattern at `offset`.
pub fn mismatch(data: &[u8], seed: u64, offset: u64) -> Option<usize> {
    (0..data.len()).find(|&at| data[at] != byte(seed, offset + at as u64))
}

/// A digest that both sides compute alike (FNV-1a over bytes).
pub fn digest(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
