//! The xsave area: what debuggers can make of it.

/// The shortest xsave area in bytes: legacy region and header (Intel SDM volume 1, 13.4).
pub const XSAVE_MIN_LEN: usize = 576;

/// Where the kernel keeps XCR0 in an area that ptrace or a core gives (`sw_reserved`, gdb's
/// I386_LINUX_XSAVE_XCR0_OFFSET).
const XCR0: usize = 464;
/// XSTATE_BV: the components that aren't in their initial state (Intel SDM volume 1, 13.4.2).
const XSTATE_BV: usize = 512;
/// The component bit of the protection keys register.
const PKRU: u64 = 1 << 9;
/// The component bits of AMX, TILECFG and TILEDATA.
const TILES: u64 = 1 << 17 | 1 << 18;
/// The component bits of AVX-512.
const AVX512: u64 = 7 << 5;
/// Where AVX-512 ends on the processors that have AMX, in bytes.
const AVX512_END: usize = 2688;
/// Where the protection keys end on them, in bytes.
const PKRU_END: usize = 2696;

/// Cuts the AMX tiles off `area` if they are in their initial state, as they are in almost every thread.
///
/// No information is lost: XSTATE_BV said that there is none. What is gained is the vector registers: gdb before 14
/// warns of an area with tiles in it; later ones find the components by the area's exact length (2,696 or 2,688
/// bytes with AVX-512 on Intel, i387_guess_xsave_layout in gdb/i387-tdep.c) and show no register beyond SSE if they
/// don't know it. [`CoreLayout::new`](super::CoreLayout::new) does this for each thread; a writer that collects
/// many threads saves 8 KiB each by doing it at once. Any other area is left as it is.
pub fn trim_xsave(area: &mut Vec<u8>) {
    let (Some(xcr0), Some(in_use)) = (word(area, XCR0), word(area, XSTATE_BV)) else { return };
    let end = if xcr0 & PKRU != 0 { PKRU_END } else { AVX512_END };
    let known = xcr0 & AVX512 == AVX512 && xcr0 & TILES != 0 && in_use & TILES == 0;
    // The offsets hold for the standard format of today's processors. Another layout would have something there.
    if !known || area.len() <= end || area[end..].iter().any(|&byte| byte != 0) {
        return;
    }
    area.truncate(end);
    area.shrink_to_fit();
    area[XCR0..XCR0 + 8].copy_from_slice(&(xcr0 & !TILES).to_le_bytes());
}

fn word(area: &[u8], offset: usize) -> Option<u64> {
    area.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(len: usize, xcr0: u64, in_use: u64) -> Vec<u8> {
        let mut area = vec![0; len];
        area[XCR0..XCR0 + 8].copy_from_slice(&xcr0.to_le_bytes());
        area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&in_use.to_le_bytes());
        area
    }

    #[test]
    fn idle_tiles_are_cut() {
        // As PTRACE_GETREGSET gives it on a Xeon of 2023.
        let mut bytes = area(11_008, 0x602e7, 0x2e7);
        bytes[AVX512_END] = 0x54;
        trim_xsave(&mut bytes);
        assert_eq!(bytes.len(), 2696);
        assert_eq!((word(&bytes, XCR0), bytes[AVX512_END]), (Some(0x2e7), 0x54));

        let mut bytes = area(11_008, 0x600e7, 0xe7);
        trim_xsave(&mut bytes);
        assert_eq!(bytes.len(), 2688);
    }

    #[test]
    fn everything_else_is_kept() {
        let mut in_use = area(11_008, 0x602e7, 0x602e7);
        let mut elsewhere = area(11_008, 0x602e7, 0x2e7);
        elsewhere[2800] = 1;
        let mut without = area(2696, 0x2e7, 0x2e7);
        let mut amd = area(2440, 0x2e7, 0x2e7);
        let mut no_avx512 = area(11_008, 0x60207, 7);
        for area in [&mut in_use, &mut elsewhere, &mut without, &mut amd, &mut no_avx512] {
            let before = area.clone();
            trim_xsave(area);
            assert_eq!(*area, before);
        }
        for len in [0, 470, 515] {
            let mut short = vec![0xff; len];
            trim_xsave(&mut short);
            assert_eq!(short.len(), len);
        }
    }
}
