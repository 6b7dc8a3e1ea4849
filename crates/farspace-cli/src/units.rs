//! Sizes, rates and times: reading them from arguments, writing them for people.

use std::time::Duration;

/// Parses a size in bytes: decimal or 0x hexadecimal, with K, M, G, T (also Ki, KiB, KB: all powers of 1024).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size; examples: 4096, 0x1000, 64K, 1GiB");
    let (number, shift) = if text.starts_with("0x") || text.starts_with("0X") {
        // A suffix would be ambiguous with hexadecimal digits only for B, which is not one alone.
        let end = text.find(['K', 'k', 'M', 'm', 'G', 'g', 'T', 't']).unwrap_or(text.len());
        (&text[..end], suffix_shift(&text[end..]).ok_or_else(bad)?)
    } else {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        (&text[..end], suffix_shift(&text[end..]).ok_or_else(bad)?)
    };
    let value = parse_number(number).ok_or_else(bad)?;
    value.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is more than 64 bits"))
}

/// Parses a number: decimal, or hexadecimal after 0x.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

fn suffix_shift(suffix: &str) -> Option<u32> {
    let lower = suffix.to_ascii_lowercase();
    let letter = match lower.as_str() {
        "" | "b" => return Some(0),
        other => other.strip_suffix("ib").or_else(|| other.strip_suffix(['b', 'i'])).unwrap_or(other),
    };
    match letter {
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    }
}

/// "1.00 GiB", "512 B".
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Gigabytes (10^9) per second.
pub(crate) fn gb_per_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9)
}

/// "123 us", "12.3 ms", "1.23 s": three digits.
pub(crate) fn time(time: Duration) -> String {
    let ns = time.as_nanos() as f64;
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "us"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("0x1000"), Ok(4096));
        assert_eq!(parse_size("0x10K"), Ok(16 << 10));
        for one in ["1G", "1g", "1Gi", "1GiB", "1GB", "1024M"] {
            assert_eq!(parse_size(one), Ok(1 << 30), "{one}");
        }
        for bad in ["", "x", "1X", "-1", "0x", "1.5G", "K", "1 G", "0x-1", "+1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(parse_size("99999999999G").unwrap_err().contains("64 bits"));
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(time(Duration::from_nanos(12_345)), "12.3 us");
        assert_eq!(time(Duration::from_millis(1_234)), "1.23 s");
        assert_eq!(time(Duration::from_micros(123_456)), "123 ms");
    }
}
