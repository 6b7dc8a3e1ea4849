//! Loading of ELF files (elf(5)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use anyhow::{Context, ensure};
use farspace_exec::{Protection, Reg, Sharing};
use object::LittleEndian;
use object::elf::{
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use rustix::fs::{Mode, OFlags};

use crate::descriptors::OpenFile;
use crate::kernel::{Kernel, Stop};
use crate::memory::{Backing, PAGE};
use crate::paths::PATH_MAX;
use crate::stack;

/// Where position-independent programs lie (ELF_ET_DYN_BASE without randomization).
const PROGRAM_BASE: u64 = 0x5555_5540_0000;
/// The ELF header and the program headers are in the first bytes of any sane file.
const HEAD_BYTES: usize = 4096;

/// A loaded file, as the auxiliary vector describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// Difference between its addresses in the file and in the guest.
    pub(crate) bias: u64,
    pub(crate) entry: u64,
    pub(crate) headers: u64,
    pub(crate) nr_headers: u64,
    end: u64,
}

/// Loads a program, its interpreter if it has one, its stack; and sets the registers.
pub(crate) fn execute<'a>(
    kernel: &mut Kernel,
    program: &OsStr,
    arguments: impl Iterator<Item = &'a OsString>,
) -> anyhow::Result<()> {
    let path = locate(kernel, program)?;
    let file = open(kernel, &path)?;
    kernel.paths.program = kernel.paths.name_of(&file.host).map_err(reason)?;
    let (image, interpreter) = load(kernel, &file, true)?;
    let start = match interpreter {
        None => image,
        Some(interpreter) => {
            let file = open(kernel, &interpreter)?;
            let loaded = load(kernel, &file, false);
            loaded.with_context(|| format!("its interpreter {}", interpreter.display()))?.0
        }
    };
    kernel.memory.heap = image.end..image.end;
    let pointer = stack::build(kernel, arguments, &path, &image, &start)?;
    kernel.vcpu.set_reg(Reg::Rip, start.entry)?;
    kernel.vcpu.set_reg(Reg::Rsp, pointer)?;
    Ok(())
}

/// A name without a slash is looked for in $PATH.
fn locate(kernel: &Kernel, program: &OsStr) -> anyhow::Result<OsString> {
    let bytes = program.as_bytes();
    if bytes.starts_with(b"/") {
        return Ok(program.to_owned());
    }
    if bytes.contains(&b'/') {
        let mut path = kernel.paths.cwd.clone();
        path.push("/");
        path.push(program);
        return Ok(path);
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&directories).map(|directory| directory.join(program));
    let found =
        candidates.find(|path| kernel.paths.open(path.as_os_str(), OFlags::PATH, Mode::empty()).is_ok());
    Ok(found.context("not found in $PATH")?.into_os_string())
}

fn open(kernel: &Kernel, path: &OsStr) -> anyhow::Result<Rc<OpenFile>> {
    let host = kernel.paths.open(path, OFlags::RDONLY, Mode::empty());
    Ok(Rc::new(OpenFile { host: host.with_context(|| path.display().to_string())? }))
}

/// Loads one file; returns the name of the interpreter that it asks for.
fn load(
    kernel: &mut Kernel,
    file: &Rc<OpenFile>,
    program: bool,
) -> anyhow::Result<(Image, Option<OsString>)> {
    const LE: LittleEndian = LittleEndian;
    let mut head = vec![0; HEAD_BYTES];
    let len = rustix::io::pread(&file.host, &mut head, 0)?;
    let head = &head[..len];
    let header = FileHeader64::<LittleEndian>::parse(head).context("not an ELF file")?;
    let kind = header.e_type(LE);
    ensure!(header.e_machine(LE) == EM_X86_64 && [ET_EXEC, ET_DYN].contains(&kind), "not an x86-64 program");
    let segments = header.program_headers(LE, head).context("no program headers where they are expected")?;
    let loads = || segments.iter().filter(|segment| segment.p_type(LE) == PT_LOAD);
    let first = loads().map(|segment| segment.p_vaddr(LE)).min().context("nothing to load")? / PAGE * PAGE;
    let last =
        loads().map(|segment| segment.p_vaddr(LE).saturating_add(segment.p_memsz(LE))).max().unwrap_or(0);
    let bias = match (kind, program) {
        (ET_EXEC, _) => 0,
        (_, true) => PROGRAM_BASE,
        (_, false) => {
            let span = last.checked_next_multiple_of(PAGE).context("a segment is too large")? - first;
            kernel.memory.gap(span).map_err(reason)?.start - first
        }
    };
    for segment in loads() {
        load_segment(kernel, file, segment, bias).map_err(reason).context("cannot map a segment")?;
    }
    let headers = loads()
        .find(|segment| {
            (segment.p_offset(LE)..segment.p_offset(LE) + segment.p_filesz(LE)).contains(&header.e_phoff(LE))
        })
        .map_or(0, |segment| bias + segment.p_vaddr(LE) + header.e_phoff(LE) - segment.p_offset(LE));
    let image = Image {
        bias,
        entry: bias + header.e_entry(LE),
        headers,
        nr_headers: segments.len() as u64,
        end: (bias + last).next_multiple_of(PAGE),
    };
    let mut interpreter = None;
    if let Some(segment) = segments.iter().find(|segment| segment.p_type(LE) == PT_INTERP) {
        let mut name = vec![0; (segment.p_filesz(LE) as usize).min(PATH_MAX)];
        let len = rustix::io::pread(&file.host, &mut name, segment.p_offset(LE))?;
        let name = name[..len].split(|byte| *byte == 0).next().unwrap_or_default();
        interpreter = Some(OsStr::from_bytes(name).to_owned());
    }
    Ok((image, interpreter))
}

/// The file's part of a segment, zeros to the end of its last page, and zeros after that.
fn load_segment(
    kernel: &mut Kernel,
    file: &Rc<OpenFile>,
    segment: &ProgramHeader64<LittleEndian>,
    bias: u64,
) -> Result<(), Stop> {
    const LE: LittleEndian = LittleEndian;
    let flags = segment.p_flags(LE);
    let mut protection = Protection::empty();
    protection.set(Protection::READ, flags & PF_R != 0);
    protection.set(Protection::WRITE, flags & PF_W != 0);
    protection.set(Protection::EXECUTE, flags & PF_X != 0);
    let invalid = rustix::io::Errno::NOEXEC;
    let at = bias.checked_add(segment.p_vaddr(LE)).ok_or(invalid)?;
    let start = at / PAGE * PAGE;
    let round =
        |len: u64| at.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)).ok_or(invalid);
    let (file_len, memory_len) = (segment.p_filesz(LE), segment.p_memsz(LE));
    let (file_end, end) = (round(file_len)?, round(memory_len.max(file_len))?);
    let offset = segment.p_offset(LE).checked_sub(at - start).ok_or(invalid)?;
    if file_len > 0 {
        let backing = Backing::File(Rc::clone(file), offset, Sharing::Private);
        kernel.memory.map(start..file_end, protection, backing)?;
        if memory_len > file_len {
            kernel.memory.write(at + file_len, &vec![0; (file_end - at - file_len) as usize])?;
        }
    }
    let zeros = if file_len > 0 { file_end } else { start };
    if zeros < end {
        kernel.memory.map(zeros..end, protection, Backing::Anonymous)?;
    }
    Ok(())
}

/// A failure before there is a guest that it could be told.
pub(crate) fn reason(stop: Stop) -> anyhow::Error {
    match stop {
        Stop::Errno(errno) => std::io::Error::from(errno).into(),
        Stop::Engine(error) => error.into(),
        Stop::End(ending) => anyhow::anyhow!("{ending:?}"),
    }
}
