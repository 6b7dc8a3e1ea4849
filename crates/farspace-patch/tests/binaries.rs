//! How many of the system call sites of real programs can be rewritten.
//!
//! Takes what the machine has, and the files listed in FARSPACE_PATCH_BINARIES (separated by colons). Sites are found by decoding
//! the text from the start of each function or section, which is only a guess; an engine sees real ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farspace_patch::arch::x86_64::WINDOW_MAX;
use farspace_patch::{Patches, Refusal};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use object::{Object, ObjectSection, SectionKind};

const USUAL: [&str; 8] = [
    "/bin/busybox",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libpthread.so.0",
    "/lib/ld-musl-x86_64.so.1",
    "/usr/bin/bash-static",
    "/usr/bin/gdb",
    "/usr/local/go/bin/go",
];

/// What is free in the imagined guest: all but the file's own mappings.
const BASE: u64 = 0x7f00_0000_0000;

#[test]
fn most_sites_of_real_programs_can_be_rewritten() {
    let listed = std::env::var("FARSPACE_PATCH_BINARIES").unwrap_or_default();
    let paths = USUAL.iter().map(PathBuf::from).chain(listed.split(':').map(PathBuf::from));
    let (mut all, mut patched) = (0, 0);
    for path in paths.filter(|path| path.is_file()) {
        let (sites, refusals, pages) = examine(&path);
        let refused: usize = refusals.values().sum();
        println!("{}: {} of {sites} sites, {pages} pages; {refusals:?}", path.display(), sites - refused);
        all += sites;
        patched += sites - refused;
    }
    println!("{patched} of {all} sites in all");
    assert!(patched * 10 >= all * 9, "{patched} of {all}");
}

fn examine(path: &Path) -> (usize, BTreeMap<String, usize>, usize) {
    let image = std::fs::read(path).expect("readable");
    let file = object::File::parse(&*image).expect("an object file");
    let (mut patches, mut refusals, mut sites) = (Patches::default(), BTreeMap::new(), 0);
    if file.architecture() != object::Architecture::X86_64 {
        return (0, refusals, 0);
    }
    // A program at a fixed address near zero has room above only, a library on both sides.
    let fixed = file.kind() == object::ObjectKind::Executable;
    let bias = if fixed { 0 } else { BASE };
    let end = file.sections().map(|section| section.address() + section.size()).max().unwrap_or(0);
    let above = (bias + end).next_multiple_of(4096)..0x7fff_ffff_f000;
    let free = if fixed { vec![above] } else { vec![0x10000..bias, above] };

    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().expect("data");
        let start = bias + section.address();
        for at in find(start, code) {
            let rest = &code[(at - start) as usize..];
            sites += 1;
            match patches.plan(at, &rest[..rest.len().min(WINDOW_MAX)], 0x1234_5678, &free) {
                Ok(plan) => {
                    patches.commit(plan).expect("a fresh plan");
                }
                Err(refusal) => {
                    if std::env::var_os("FARSPACE_PATCH_LIST").is_some() {
                        println!("{:#x}: {refusal}: {:02x?}", at - bias, &rest[..rest.len().min(12)]);
                    }
                    *refusals.entry(kind(refusal)).or_default() += 1;
                }
            }
        }
    }
    (sites, refusals, patches.pages().count())
}

/// The system calls, but those that don't return: they are never asked for.
fn find(start: u64, code: &[u8]) -> Vec<u64> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let (mut sites, mut number) = (Vec::new(), None);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        match instruction.mnemonic() {
            Mnemonic::Syscall => {
                const NEVER_RETURN: [u64; 3] = [15, 60, 231]; // rt_sigreturn, exit, exit_group
                if !number.is_some_and(|number| NEVER_RETURN.contains(&number)) {
                    sites.push(instruction.ip());
                }
                number = None;
            }
            Mnemonic::Mov if instruction.op0_register().full_register() == iced_x86::Register::RAX => {
                number = instruction.try_immediate(1).ok();
            }
            _ => {}
        }
    }
    sites
}

fn kind(refusal: Refusal) -> String {
    let text = format!("{refusal:?}");
    text.split_once(' ').map_or(text.clone(), |(kind, _)| kind.to_owned())
}
