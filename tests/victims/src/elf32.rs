//! A 32-bit program: made at run time, so that nothing but this binary is needed.
//!
//! It echoes what it reads, keeps a value in every spare register across each system call, and leaves with a
//! status of its own where one of them changed or a call failed.

use crate::{Verdict, control, sys};
use std::arch::global_asm;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Child, Command, Stdio};

global_asm!(
    ".pushsection .rodata.farspace_elf32, \"a\"",
    ".globl farspace_elf32_begin",
    "farspace_elf32_begin:",
    ".code32",
    "mov esi, 0x51515151",
    "mov edi, 0x72727272",
    "mov ebp, 0x13131313",
    "sub esp, 16",
    "2:",
    "mov eax, 3", // read(0, esp, 1)
    "xor ebx, ebx",
    "mov ecx, esp",
    "mov edx, 1",
    "int 0x80",
    "mov ebx, 0", // end of file: unharmed
    "test eax, eax",
    "jz 4f",
    "mov ebx, 1", // read failed
    "js 4f",
    "mov ebx, 2", // a register changed
    "cmp esi, 0x51515151",
    "jne 4f",
    "cmp edi, 0x72727272",
    "jne 4f",
    "cmp ebp, 0x13131313",
    "jne 4f",
    "cmp ecx, esp",
    "jne 4f",
    "mov eax, 4", // write(1, esp, 1)
    "mov ebx, 1",
    "int 0x80",
    "cmp eax, 1",
    "je 2b",
    "mov ebx, 3", // write failed
    "4:",
    "mov eax, 1", // exit
    "int 0x80",
    "hlt",
    ".code64",
    ".globl farspace_elf32_end",
    "farspace_elf32_end:",
    ".popsection",
);

unsafe extern "C" {
    static farspace_elf32_begin: u8;
    static farspace_elf32_end: u8;
}

/// Where a 32-bit program is usually loaded.
const BASE: u32 = 0x0804_8000;
const HEADERS: u32 = 52 + 32;

pub(crate) fn main(_: &[String]) -> Verdict {
    let mut child = match start() {
        Ok(child) => child,
        Err(reason) => return control::skip(&format!("no 32-bit programs here: {reason}")),
    };
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the 32-bit program has no pipes".to_owned());
    };
    let mut echo = || -> Verdict {
        let mut byte = [0];
        let said = input.write_all(b"e").and_then(|()| output.read_exact(&mut byte));
        said.map_err(|e| format!("the 32-bit program doesn't answer: {e}"))?;
        if byte == *b"e" { Ok(()) } else { Err(format!("the 32-bit program answers {byte:?}")) }
    };
    echo()?;
    control::say(&format!("ready {}", child.id()));
    loop {
        let line = control::command()?;
        match echo() {
            Ok(()) if matches!(line.as_deref(), None | Some("exit" | "exit attached")) => break,
            Ok(()) => control::say("ok"),
            Err(reason) => {
                let status = child.wait().map_err(|e| format!("wait: {e}"))?;
                return Err(format!("{reason} ({status})"));
            }
        }
    }
    drop(input);
    match child.wait().map_err(|e| format!("wait: {e}"))? {
        status if status.success() => control::say("ok"),
        status => return Err(format!("the 32-bit program ended with {status}")),
    }
    Ok(())
}

fn start() -> Result<Child, String> {
    let name = c"farspace-elf32";
    // SAFETY: the name is valid; the descriptor is new and ours.
    let mut file = unsafe {
        let fd = sys::os("memfd_create", libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?;
        File::from_raw_fd(fd as i32)
    };
    file.write_all(&image()).map_err(|e| format!("memfd: {e}"))?;
    // A descriptor that is open for writing can't be executed: through a read-only one.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let readable = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
    drop(file);
    let path = format!("/proc/{}/fd/{}", std::process::id(), readable.as_raw_fd());
    let spawned = Command::new(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    spawned.map_err(|e| e.to_string())
}

/// The smallest ELF32 executable around the code: one read-and-execute segment.
fn image() -> Vec<u8> {
    // SAFETY: both symbols delimit the same constant section, written by the assembler above.
    let code = unsafe {
        let (begin, end) = (&raw const farspace_elf32_begin, &raw const farspace_elf32_end);
        std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin))
    };
    let len = HEADERS + code.len() as u32;
    // e_ident: ELFCLASS32, little-endian, version 1.
    let mut image = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |image: &mut Vec<u8>, value: u16| image.extend(value.to_le_bytes());
    let word = |image: &mut Vec<u8>, value: u32| image.extend(value.to_le_bytes());
    half(&mut image, 2); // e_type: ET_EXEC
    half(&mut image, 3); // e_machine: EM_386
    for value in [1, BASE + HEADERS, 52, 0, 0] {
        word(&mut image, value); // e_version, e_entry, e_phoff, e_shoff, e_flags
    }
    for value in [52, 32, 1, 0, 0, 0] {
        half(&mut image, value); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    }
    for value in [1, 0, BASE, BASE, len, len, 5, 0x1000] {
        word(&mut image, value); // PT_LOAD, offset, vaddr, paddr, filesz, memsz, R+X, align
    }
    image.extend_from_slice(code);
    image
}
