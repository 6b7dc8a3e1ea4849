//! Two equal places, one command: what a program does natively and in the application kernel must be the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

/// The application kernel.
pub(crate) fn kernel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_application-kernel"))
}

/// The program under test, statically linked on Debian.
pub(crate) fn busybox() -> PathBuf {
    let found =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("busybox; on Debian: apt-get install busybox-static")
}

/// A directory for each of the two, filled alike.
pub(crate) struct Places {
    _directory: TempDir,
    native: PathBuf,
    pub(crate) guest: PathBuf,
}

impl Places {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [native, guest] = ["native", "guest"].map(|name| {
            let place = directory.path().join(name);
            fill(&place).expect("files");
            place
        });
        Self { _directory: directory, native, guest }
    }

    /// Runs busybox in both places: output, end and files must be equal. Returns what went to stdout.
    pub(crate) fn same(&self, arguments: &[&str]) -> String {
        self.same_with(arguments, Path::new("/dev/null"))
    }

    /// As [`Places::same`], with a file of the places for stdin.
    pub(crate) fn same_with(&self, arguments: &[&str], stdin: &Path) -> String {
        let native = run(Command::new(busybox()).args(arguments), &self.native, stdin);
        let guest = run(kernel().arg(busybox()).args(arguments), &self.guest, stdin);
        assert_eq!(text(&guest.stderr), text(&native.stderr), "stderr of {arguments:?}");
        assert_eq!(guest.status.code(), native.status.code(), "{arguments:?}");
        assert!(guest.stdout == native.stdout, "{arguments:?}: {:?}", difference(&guest, &native));
        let (theirs, ours) = (tree(&self.guest), tree(&self.native));
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&theirs), names(&ours), "files after {arguments:?}");
        for (name, file) in theirs {
            assert!(file == ours[&name], "{} after {arguments:?}", name.display());
        }
        text(&guest.stdout)
    }
}

fn run(command: &mut Command, place: &Path, stdin: &Path) -> Output {
    let stdin = fs::File::open(place.join(stdin)).expect("stdin");
    let command = command.current_dir(place).stdin(Stdio::from(stdin)).env("TZ", "UTC").env("PWD", place);
    command.output().expect("a run")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first lines that differ.
fn difference(guest: &Output, native: &Output) -> (String, String) {
    let (guest, native) = (text(&guest.stdout), text(&native.stdout));
    let same = guest.lines().zip(native.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(end)").to_owned();
    (line(&guest), line(&native))
}

/// Each file's name, mode and contents.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

fn tree(place: &Path) -> Tree {
    let mut found = Tree::new();
    let mut rest = vec![place.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("metadata");
            let contents = if metadata.is_symlink() {
                path.read_link().expect("a link").into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                rest.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("contents")
            };
            found.insert(path.strip_prefix(place).expect("inside").to_owned(), (metadata.mode(), contents));
        }
    }
    found
}

fn fill(place: &Path) -> std::io::Result<()> {
    fs::create_dir_all(place.join("tree/a/b"))?;
    fs::create_dir_all(place.join("tree/empty"))?;
    fs::write(place.join("big"), noise(5_000_000))?;
    let noise = noise(30_000);
    let words: Vec<_> =
        noise.chunks(3).map(|bytes| format!("w{} {} x", bytes[0], bytes[1] as u32 * 7)).collect();
    fs::write(place.join("words"), words.join("\n") + "\n")?;
    fs::write(place.join("tree/a/one.txt"), "first needle\nsecond\nthird needle\n")?;
    fs::write(place.join("tree/a/b/two.txt"), "no such thing\n")?;
    fs::write(place.join("tree/a/b/large"), &noise)?;
    fs::write(place.join("tree/script"), "#!/bin/sh\necho needle\n")?;
    fs::set_permissions(place.join("tree/script"), fs::Permissions::from_mode(0o750))?;
    symlink("a/one.txt", place.join("tree/link"))?;
    // Archives and lists show times: those of both places are the same.
    let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: past, last_modification: past };
    let names = [
        "a/b/two.txt",
        "a/b/large",
        "a/b",
        "a/one.txt",
        "a",
        "script",
        "link",
        "empty",
        "",
        "../words",
        "../big",
    ];
    for name in names {
        utimensat(CWD, place.join("tree").join(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Bytes without a pattern, always the same (a linear congruential generator).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
