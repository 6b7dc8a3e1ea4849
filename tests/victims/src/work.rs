//! Work whose result can be known without doing it.
//!
//! Every round maps each cell through `x -> K*x + C`. After `n` rounds a cell is an affine function of its first
//! value, computed in log(n) steps; so a block that went through millions of rounds is checked against an
//! expectation that took no part in them. A flipped register or a lost write anywhere stays in the result.

use std::hint::black_box;

const K: u64 = 6_364_136_223_846_793_005;
const C: u64 = 1_442_695_040_888_963_407;

/// Memory that is rewritten round after round.
pub struct Block {
    cells: Vec<u64>,
    seed: u64,
}

impl Block {
    /// A block of `len_bytes`, filled from `seed`.
    pub fn new(seed: u64, len_bytes: usize) -> Self {
        Self { cells: (0..len_bytes as u64 / 8).map(|i| crate::pattern::word(seed, i)).collect(), seed }
    }

    /// One round over all cells.
    pub fn advance(&mut self) {
        for cell in black_box(self.cells.as_mut_slice()) {
            *cell = cell.wrapping_mul(K).wrapping_add(C);
        }
    }

    /// The checksum of the cells as they are now.
    pub fn sum(&self) -> u64 {
        black_box(self.cells.as_slice()).iter().fold(0, |h: u64, &cell| h.rotate_left(5) ^ cell)
    }

    /// The checksum that `rounds` rounds must give, from the seed alone.
    pub fn expected(&self, rounds: u64) -> u64 {
        let (k, c) = power(rounds);
        (0..self.cells.len() as u64).fold(0, |h: u64, i| {
            h.rotate_left(5) ^ crate::pattern::word(self.seed, i).wrapping_mul(k).wrapping_add(c)
        })
    }
}

/// The affine map (k, c) applied `n` times, by repeated squaring.
fn power(mut n: u64) -> (u64, u64) {
    let (mut k, mut c) = (K, C);
    let (mut result_k, mut result_c) = (1_u64, 0_u64);
    while n > 0 {
        if n & 1 == 1 {
            result_c = k.wrapping_mul(result_c).wrapping_add(c);
            result_k = k.wrapping_mul(result_k);
        }
        c = k.wrapping_mul(c).wrapping_add(c);
        k = k.wrapping_mul(k);
        n >>= 1;
    }
    (result_k, result_c)
}

#[cfg(test)]
mod tests {
    use super::Block;

    #[test]
    fn expectation_agrees_with_doing_it() {
        let mut block = Block::new(7, 4096);
        for rounds in 0..300 {
            assert_eq!(block.sum(), block.expected(rounds));
            block.advance();
        }
    }

    #[test]
    fn a_single_flipped_bit_shows() {
        let mut block = Block::new(7, 4096);
        block.cells[17] ^= 1 << 40;
        for _ in 0..10 {
            block.advance();
        }
        assert_ne!(block.sum(), block.expected(10));
    }
}
