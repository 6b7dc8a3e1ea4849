//! One argument of a system call: a number, a constant, a buffer, or a descriptor.

use std::path::PathBuf;

use farspace_abi::RemoteIoVec;

use super::constants;
use crate::range;
use crate::units::parse_size;

/// The largest buffer, in bytes: it is held in memory here as well.
const MAX_BUFFER: u64 = 256 << 20;

/// An argument, and what was typed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// As typed.
    pub(crate) text: String,
    /// What it stands for.
    pub(crate) value: Value,
}

/// What an argument stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number.
    Number(u64),
    /// The address of these bytes, copied into the target.
    Input(Vec<u8>),
    /// The address of so many zeros in the target, shown after the call.
    Output(u64),
    /// A descriptor of farspace's, for the call.
    Fd(FdSource),
}

/// Where a descriptor comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FdSource {
    /// Inherited from whoever started farspace.
    Number(i32),
    /// A file, opened for reading and writing where that is allowed.
    Path(PathBuf),
}

impl Argument {
    /// Parses an argument.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value = match text.split_once(':') {
            Some(("str", rest)) => Value::Input([rest.as_bytes(), b"\0"].concat()),
            Some(("in", rest)) => Value::Input(match rest.strip_prefix('@') {
                Some(path) => read_file(path)?,
                None => parse_hex(rest).ok_or_else(|| {
                    format!("'{text}' is not in:HEX (pairs of hexadecimal digits) or in:@FILE")
                })?,
            }),
            Some(("out", rest)) => Value::Output(parse_len(rest)?),
            Some(("iov", rest)) => Value::Input(segments(rest)?),
            Some(("fd", rest)) if !rest.is_empty() => Value::Fd(match rest.parse::<i32>() {
                Ok(number) if number >= 0 => FdSource::Number(number),
                Ok(_) => return Err(format!("'{text}' is not a descriptor")),
                Err(_) => FdSource::Path(rest.into()),
            }),
            Some(_) => return Err(format!("'{text}' begins with none of str: in: out: iov: fd:")),
            None => Value::Number(parse_flags(text)?),
        };
        Ok(Self { text: text.to_owned(), value })
    }

    /// The number, if it is one.
    pub(crate) fn number(&self) -> Option<u64> {
        match self.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }
}

/// Numbers and constants, joined by `|`.
fn parse_flags(text: &str) -> Result<u64, String> {
    text.split('|').try_fold(0, |flags, part| Ok(flags | parse_word(part.trim())?))
}

fn parse_word(text: &str) -> Result<u64, String> {
    if let Some(value) = constants::find(text) {
        return Ok(value);
    }
    let number = match text.strip_prefix('-') {
        Some(positive) => parse_size(positive).map(u64::wrapping_neg),
        None => parse_size(text),
    };
    number.map_err(|_| {
        let example = "numbers are 4096, 0x1000, 64K, -1; constants PROT_READ|PROT_WRITE";
        match constants::similar(text) {
            Some(name) => format!("'{text}' is not known; there is {name}"),
            None => format!("'{text}' is neither a number nor a known constant; {example}"),
        }
    })
}

fn parse_len(text: &str) -> Result<u64, String> {
    let len = parse_size(text)?;
    if len == 0 || len > MAX_BUFFER {
        return Err(format!("'out:{text}' must have from 1 byte to 256M"));
    }
    Ok(len)
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    let error = |what: String| format!("'in:@{path}' can't be used: {what}");
    let len = std::fs::metadata(path).map_err(|e| error(crate::failure::errno_text(&e)))?.len();
    if len > MAX_BUFFER {
        return Err(error("more than 256M".to_owned()));
    }
    std::fs::read(path).map_err(|e| error(crate::failure::errno_text(&e)))
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    (pairs.remainder().is_empty() && !digits.is_empty())
        .then(|| pairs.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// `ADDR+LEN,...` as an array of `struct iovec` (readv(2)).
fn segments(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in text.split(',') {
        let RemoteIoVec { base, len } = range::parse(part)?;
        bytes.extend(base.0.to_le_bytes());
        bytes.extend(len.to_le_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Argument::parse(text).unwrap_or_else(|e| panic!("{e}")).value
    }

    #[test]
    fn numbers() {
        for (text, number) in [
            ("0", 0),
            ("0x1000", 4096),
            ("64K", 65536),
            ("-1", u64::MAX),
            ("PROT_READ|PROT_WRITE", 3),
            ("MAP_PRIVATE|0x20", 0x22),
            ("MADV_DONTNEED", 4),
        ] {
            assert_eq!(value(text), Value::Number(number), "{text}");
        }
    }

    #[test]
    fn buffers_and_descriptors() {
        assert_eq!(value("str:a:b"), Value::Input(b"a:b\0".to_vec()));
        assert_eq!(value("in:00fF"), Value::Input(vec![0, 255]));
        assert_eq!(value("out:16"), Value::Output(16));
        assert_eq!(value("fd:1"), Value::Fd(FdSource::Number(1)));
        assert_eq!(value("fd:/dev/null"), Value::Fd(FdSource::Path("/dev/null".into())));
        let Value::Input(iov) = value("iov:0x1000+1,0x2000+2") else { panic!("no buffer") };
        assert_eq!((iov.len(), iov[1], iov[8], iov[17], iov[24]), (32, 0x10, 1, 0x20, 2));
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "x",
            "PROT_REED",
            "|",
            "in:0",
            "in:",
            "in:xy",
            "out:0",
            "out:1T",
            "iov:1",
            "fd:",
            "fd:-1",
            "a:b",
        ] {
            assert!(Argument::parse(bad).is_err(), "{bad}");
        }
        assert!(Argument::parse("PROT_REED").unwrap_err().contains("PROT_READ"));
        assert!(Argument::parse("in:@/no/such").unwrap_err().contains("No such file"));
    }
}
