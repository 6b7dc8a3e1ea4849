//! What the application kernel itself promises: the root, how programs end, what it tells.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::places::{Places, busybox, kernel, text};

fn ash(script: &str) -> Output {
    kernel().arg(busybox()).args(["ash", "-c", script]).output().expect("a run")
}

/// Runs code at 0x400078, the only content of an ELF file whose one segment is read and execute.
fn bare(code: &[u8]) -> Output {
    let mut image = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    let put =
        |image: &mut Vec<u8>, words: &[u64]| words.iter().for_each(|word| image.extend(word.to_le_bytes()));
    put(&mut image, &[0x40_0078, 64, 0]);
    image.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\x40\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    let len = 120 + code.len() as u64;
    put(&mut image, &[0, 0x40_0000, 0x40_0000, len, len, 0x1000]);
    image.extend(code);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = directory.path().join("bare");
    fs::write(&program, image).expect("a program");
    kernel().arg(program).output().expect("a run")
}

/// mov edi, eax; mov eax, SYS_exit_group; syscall
const EXIT_WITH_EAX: [u8; 9] = [0x89, 0xc7, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];

#[test]
fn the_root_is_the_world() {
    let places = Places::new();
    let root = &places.guest;
    fs::copy(busybox(), root.join("busybox")).expect("copy");
    fs::set_permissions(root.join("busybox"), fs::Permissions::from_mode(0o755)).expect("mode");
    fs::write(root.join("../secret"), "outside").expect("write");
    symlink("../../secret", root.join("tree/up")).expect("link");
    symlink("/words", root.join("tree/absolute")).expect("link");
    let inside = |arguments: &[&str]| {
        let output =
            kernel().arg("--root").arg(root).arg("/busybox").args(arguments).output().expect("a run");
        (text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(inside(&["ls", "/"]), ("big\nbusybox\ntree\nwords\n".into(), String::new()));
    assert_eq!(inside(&["ash", "-c", "cd tree/a/b; cd ../..; pwd"]), ("/tree\n".into(), String::new()));
    for way in ["/secret", "../secret", "../../../secret", "/tree/up", "tree/../../secret"] {
        let (stdout, stderr) = inside(&["cat", way]);
        assert_eq!((&stdout[..], stderr.contains("No such file")), ("", true), "{way}: {stderr}");
    }
    assert_eq!(inside(&["head", "-n", "1", "tree/absolute"]).0, inside(&["head", "-n", "1", "words"]).0);
    inside(&["ash", "-c", "echo mine > /tree/up"]);
    inside(&["mkdir", "../made"]);
    inside(&["mv", "words", "../../moved"]);
    assert_eq!(fs::read_to_string(root.join("../secret")).expect("read"), "outside");
    assert_eq!(fs::read_to_string(root.join("secret")).expect("read"), "mine\n");
    assert!(root.join("made").is_dir() && root.join("moved").is_file());
}

#[test]
fn ends_are_passed_on() {
    assert_eq!(ash("exit 42").status.code(), Some(42));
    let killed = ash("kill -9 $$; echo not reached");
    assert_eq!((killed.status.code(), killed.stdout.len()), (Some(128 + 9), 0));
    assert_eq!(ash("trap '' TERM; kill $$; exit 3").status.code(), Some(3));
    // mov eax, [0]: nothing is there. SIGSEGV.
    assert_eq!(bare(&[0x8b, 0x04, 0x25, 0, 0, 0, 0]).status.code(), Some(128 + 11));
    // mov [0x400000], eax: it may not be written. SIGSEGV.
    assert_eq!(bare(&[0x89, 0x04, 0x25, 0, 0, 0x40, 0]).status.code(), Some(128 + 11));
    // ud2: SIGILL; div ecx, which is 0: SIGFPE; int3: SIGTRAP.
    assert_eq!(bare(&[0x0f, 0x0b]).status.code(), Some(128 + 4));
    assert_eq!(bare(&[0xf7, 0xf1]).status.code(), Some(128 + 8));
    assert_eq!(bare(&[0xcc]).status.code(), Some(128 + 5));
}

#[test]
fn a_broken_pipe_ends_the_guest() {
    let mut yes = kernel()
        .arg(busybox())
        .arg("yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a run");
    let mut bytes = [0; 4];
    yes.stdout.take().expect("a pipe").read_exact(&mut bytes).expect("read");
    assert_eq!((&bytes, yes.wait().expect("an end").code()), (b"y\ny\n", Some(128 + 13)));
}

#[test]
fn what_is_not_known_is_told() {
    // mov eax, 999; syscall; neg eax
    let code = [&[0xb8, 0xe7, 3, 0, 0, 0x0f, 0x05, 0xf7, 0xd8][..], &EXIT_WITH_EAX].concat();
    let output = bare(&code);
    assert_eq!(output.status.code(), Some(libc::ENOSYS));
    assert!(text(&output.stderr).contains("system call 999 is not known here; made 1 times"));
    // mov eax, 20; int 0x80; neg eax
    let code = [&[0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xf7, 0xd8][..], &EXIT_WITH_EAX].concat();
    let output = bare(&code);
    assert_eq!(output.status.code(), Some(libc::ENOSYS));
    assert!(text(&output.stderr).contains("system call 20 of the 32-bit table"));
}

#[test]
fn the_stack_grows_on_demand() {
    // mov eax, [rsp - 4 MiB], which is zero
    let code = [&[0x8b, 0x84, 0x24, 0, 0, 0xc0, 0xff][..], &EXIT_WITH_EAX].concat();
    assert_eq!(bare(&code).status.code(), Some(0));
}

#[test]
fn errors_of_the_guest_are_its_own() {
    // mov eax, SYS_write; mov edi, 1; mov esi, 16; mov edx, 1; syscall; neg eax
    let write =
        [0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe, 16, 0, 0, 0, 0xba, 1, 0, 0, 0, 0x0f, 0x05, 0xf7, 0xd8];
    assert_eq!(bare(&[&write[..], &EXIT_WITH_EAX].concat()).status.code(), Some(libc::EFAULT));
    // mov eax, SYS_munmap; movabs rdi, RESERVED_BASE; mov esi, 4096; syscall; neg eax: the engine's range is nobody's.
    let mut unmap = vec![0xb8, 11, 0, 0, 0, 0x48, 0xbf];
    unmap.extend(farspace_exec::RESERVED_BASE.to_le_bytes());
    unmap.extend([0xbe, 0, 0x10, 0, 0, 0x0f, 0x05, 0xf7, 0xd8]);
    assert_eq!(bare(&[&unmap[..], &EXIT_WITH_EAX].concat()).status.code(), Some(libc::ENOMEM));
}

#[test]
fn statistics() {
    let output = kernel().arg("--stats").arg(busybox()).args(["echo", "hello"]).output().expect("a run");
    assert_eq!(text(&output.stdout), "hello\n");
    let stderr = text(&output.stderr);
    assert!(stderr.contains(" system calls (") && stderr.contains(" page faults, "), "{stderr}");
}

#[test]
fn programs_that_cannot_run() {
    for (program, reason) in
        [("/nowhere", "No such file"), ("/etc/passwd", "not an ELF file"), ("nowhere", "$PATH")]
    {
        let output = kernel().arg(program).output().expect("a run");
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
}

#[test]
fn dynamic_and_position_independent_programs() {
    let output =
        kernel().args(["/bin/bash", "-c", "echo $((6 * 7)) ${BASH_VERSION:+bash}"]).output().expect("a run");
    assert_eq!(text(&output.stdout), "42 bash\n");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = "#include <stdio.h>\nstatic const char *s = \"hello\";\nint main() { puts(s); }";
    for linking in ["-static-pie", "-pie", "-static"] {
        let output = kernel().arg(compile(directory.path(), source, linking)).output().expect("a run");
        assert_eq!((&text(&output.stdout)[..], &text(&output.stderr)[..]), ("hello\n", ""), "{linking}");
    }
}

#[test]
fn mappings() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = compile(directory.path(), include_str!("mappings.c"), "-static");
    let file = directory.path().join("file");
    for mut command in [Command::new(&program), kernel()] {
        if command.get_program() != program {
            command.arg(&program);
        }
        let output = command.arg(&file).output().expect("a run");
        assert_eq!((&text(&output.stdout)[..], &text(&output.stderr)[..]), ("done\n", ""), "{command:?}");
        assert_eq!(fs::read(&file).expect("a file")[5000..5006], *b"shared");
    }
}

fn compile(directory: &Path, source: &str, linking: &str) -> PathBuf {
    let (file, program) = (directory.join("source.c"), directory.join("program"));
    fs::write(&file, source).expect("write");
    let built = Command::new("cc").arg(linking).arg("-o").args([&program, &file]).status();
    assert!(built.expect("cc").success(), "{linking}");
    program
}
