//! Bytes for people, in the form of `hexdump -C`.

use std::fmt::Write as _;

const WIDTH: usize = 16;

/// Offset, bytes and characters; lines that repeat the one before are one `*`.
pub(crate) fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: Option<&[u8]> = None;
    let mut repeats = false;
    for (nr, line) in bytes.chunks(WIDTH).enumerate() {
        if last == Some(line) {
            if !repeats {
                text.push_str("*\n");
            }
            repeats = true;
            continue;
        }
        (last, repeats) = (Some(line), false);
        let mut hex = String::new();
        for (i, byte) in line.iter().enumerate() {
            // Writing to a String can't fail.
            let _ = write!(hex, "{}{byte:02x}", if i == WIDTH / 2 { "  " } else { " " });
        }
        let shown = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        let characters: String = line.iter().map(shown).collect();
        let _ = writeln!(text, "{:08x} {hex:<49}  |{characters}|", nr * WIDTH);
    }
    let _ = writeln!(text, "{:08x}", bytes.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = hexdump(b"hello, world\n\0\0\0\xffz");
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("00000000  68 65 6c 6c 6f 2c 20 77  6f 72 6c 64 0a 00 00 00  |hello, world....|")
        );
        assert_eq!(lines.next().map(|line| line.ends_with("  |.z|")), Some(true));
        assert_eq!(lines.next(), Some("00000012"));
        assert_eq!(hexdump(&[0; 64]).lines().nth(1), Some("*"));
        assert_eq!(hexdump(&[0; 64]).lines().count(), 3);
    }
}
