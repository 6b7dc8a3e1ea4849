//! ADDR+LEN: a range of the target's memory, as given on the command line.

use farspace_abi::RemoteIoVec;

use crate::units::{parse_number, parse_size};

/// Parses `ADDR+LEN` (`0x7f0000001000+64K`) or `START-END` as /proc/PID/maps writes it (always hexadecimal).
pub(crate) fn parse(text: &str) -> Result<RemoteIoVec, String> {
    if let Some((address, length)) = text.split_once('+') {
        let base = parse_address(address)?;
        let len = parse_size(length)?;
        return checked(base, len, text);
    }
    if let Some((start, end)) = text.split_once('-') {
        let (base, end) = (parse_maps_address(start)?, parse_maps_address(end)?);
        let len = end.checked_sub(base).ok_or_else(|| format!("'{text}' ends before it starts"))?;
        return checked(base, len, text);
    }
    Err(format!("'{text}' is not ADDR+LEN or START-END; example: 0x7f0000001000+64K"))
}

fn checked(base: u64, len: u64, text: &str) -> Result<RemoteIoVec, String> {
    if len == 0 {
        return Err(format!("'{text}' is empty"));
    }
    if base.checked_add(len).is_none() || len > i64::MAX as u64 {
        return Err(format!("'{text}' runs past the end of the address space"));
    }
    Ok(RemoteIoVec::new(base, len))
}

fn parse_address(text: &str) -> Result<u64, String> {
    parse_number(text).ok_or_else(|| format!("'{text}' is not an address; hexadecimal ones start with 0x"))
}

fn parse_maps_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = if valid { u64::from_str_radix(digits, 16).ok() } else { None };
    value.ok_or_else(|| format!("'{text}' is not a hexadecimal address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts() {
        assert_eq!(parse("0x1000+4096"), Ok(RemoteIoVec::new(0x1000, 4096)));
        assert_eq!(parse("4096+0x10"), Ok(RemoteIoVec::new(4096, 16)));
        assert_eq!(parse("0x7f00+1M"), Ok(RemoteIoVec::new(0x7f00, 1 << 20)));
        assert_eq!(parse("7f0000001000-7f0000003000"), Ok(RemoteIoVec::new(0x7f00_0000_1000, 0x2000)));
    }

    #[test]
    fn refuses() {
        for bad in
            ["", "+", "-", "0x1000", "0x1000+", "+1", "0x1000+0", "zz+1", "2000-1000", "0xg+1", "1000-+5"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("0xffffffffffffffff+2").unwrap_err().contains("past the end"));
        assert!(parse("0+0x8000000000000000").unwrap_err().contains("past the end"));
    }
}
