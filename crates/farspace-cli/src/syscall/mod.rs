//! System calls as they are written on the command line and shown in reports.

mod argument;
mod constants;
mod hexdump;

pub(crate) use argument::{Argument, FdSource, Value};
pub(crate) use hexdump::hexdump;

use syscalls::Sysno;

use crate::units::parse_number;

/// A system call of x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) nr: u64,
}

impl Call {
    /// Its name, or its number where it has none.
    pub(crate) fn name(self) -> String {
        let known = usize::try_from(self.nr).ok().and_then(Sysno::new);
        known.map_or_else(|| self.nr.to_string(), |call| call.name().to_owned())
    }
}

/// Parses a name or a number.
pub(crate) fn parse_call(text: &str) -> Result<Call, String> {
    if let Some(nr) = parse_number(text) {
        return Ok(Call { nr });
    }
    if let Ok(known) = text.parse::<Sysno>() {
        return Ok(Call { nr: known.id() as u64 });
    }
    let similar: Vec<&str> =
        Sysno::iter().map(|call| call.name()).filter(|name| is_similar(name, text)).take(5).collect();
    Err(match similar.as_slice() {
        [] => format!("no system call of x86-64 has the name '{text}'; man 2 syscalls lists them"),
        names => format!("no system call of x86-64 has the name '{text}'; there is {}", names.join(", ")),
    })
}

/// Parses one argument of a call.
pub(crate) fn parse_argument(text: &str) -> Result<Argument, String> {
    Argument::parse(text)
}

/// True if one begins with the other, as pread and pread64 do, or they differ in one letter.
fn is_similar(name: &str, text: &str) -> bool {
    let enough = text.len() >= 3;
    let one_off =
        name.len() == text.len() && name.bytes().zip(text.bytes()).filter(|(a, b)| a != b).count() == 1;
    enough && (name.starts_with(text) || (name.len() >= 4 && text.starts_with(name)) || one_off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse_call("mmap").map(|call| call.nr), Ok(9));
        assert_eq!(parse_call("9").map(Call::name), Ok("mmap".to_owned()));
        assert_eq!(parse_call("0x0b").map(Call::name), Ok("munmap".to_owned()));
        assert_eq!(Call { nr: 1000 }.name(), "1000");
    }

    #[test]
    fn unknown_names_get_a_hint() {
        assert!(parse_call("pread").unwrap_err().contains("pread64"));
        assert!(parse_call("mmapp").unwrap_err().contains("there is mmap"));
        assert!(parse_call("nonsense").unwrap_err().contains("man 2 syscalls"));
    }
}
