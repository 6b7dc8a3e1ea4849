//! The guest's files, as the archive that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).

use super::{closure, modules};
use anyhow::{Context, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Directories that every guest has.
const DIRECTORIES: &[&str] =
    &["/bin", "/dev", "/proc", "/root", "/run", "/sys", "/tmp", "/etc", "/var", "/mnt"];

/// Files for a guest; a later one replaces an earlier one of the same name.
#[derive(Default)]
pub(crate) struct Initramfs {
    /// By absolute path; a directory sorts before what is in it.
    nodes: BTreeMap<PathBuf, Node>,
    /// Modules to load at boot, in order.
    modules: Vec<String>,
}

struct Node {
    content: Content,
    mode: u32,
    owner: (u32, u32),
}

enum Content {
    Directory,
    Bytes(Vec<u8>),
    /// A file of the host, read when the archive is written.
    Host(PathBuf),
    Link(PathBuf),
    /// Its kind, major and minor number.
    Device(Device, u32, u32),
}

#[derive(Clone, Copy)]
enum Device {
    Char,
    Block,
    Fifo,
}

impl Initramfs {
    /// Busybox's programs, and the directories that tests expect.
    ///
    /// # Errors
    /// busybox isn't there.
    pub(crate) fn with_busybox() -> anyhow::Result<Self> {
        let mut files = Self::default();
        for directory in DIRECTORIES {
            files.directory(directory);
        }
        // The first process's stdin, stdout, stderr: before anything is mounted.
        files.put("/dev/console", Content::Device(Device::Char, 5, 1), 0o600);
        files.bytes(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        );
        files.bytes("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
        files.program_as("busybox", "/bin/busybox")?;
        files.link("/bin/sh", "busybox");
        Ok(files)
    }

    /// A file with this content.
    pub(crate) fn bytes(&mut self, at: impl AsRef<Path>, mode: u32, content: impl Into<Vec<u8>>) {
        self.put(at, Content::Bytes(content.into()), mode);
    }

    /// A file of the host, with its mode.
    ///
    /// # Errors
    /// It isn't there.
    pub(crate) fn file(&mut self, host: impl AsRef<Path>, at: impl AsRef<Path>) -> anyhow::Result<()> {
        let host = host.as_ref();
        let mode = fs::metadata(host).with_context(|| host.display().to_string())?.permissions().mode();
        self.put(at, Content::Host(host.to_owned()), mode & 0o7777);
        Ok(())
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, at: impl AsRef<Path>, to: impl Into<PathBuf>) {
        self.put(at, Content::Link(to.into()), 0o777);
    }

    /// An empty directory.
    pub(crate) fn directory(&mut self, at: impl AsRef<Path>) {
        self.put(at, Content::Directory, 0o755);
    }

    /// A program of the host's PATH, with the shared libraries that it names, all at their own paths.
    ///
    /// # Errors
    /// It or one of them isn't there.
    pub(crate) fn program(&mut self, name: &str) -> anyhow::Result<()> {
        let path = closure::find(name)?;
        self.program_as(name, path)
    }

    /// The same under another path.
    ///
    /// # Errors
    /// As [`Initramfs::program`].
    pub(crate) fn program_as(&mut self, name: &str, at: impl AsRef<Path>) -> anyhow::Result<()> {
        let program = closure::find(name)?;
        self.file(&program, at)?;
        for library in closure::libraries(&program)? {
            self.file(&library, &library)?;
        }
        Ok(())
    }

    /// A directory of the host with everything in it: owners, modes, links and devices stay what they are.
    ///
    /// # Errors
    /// Something can't be read, or is a socket.
    pub(crate) fn tree(&mut self, host: impl AsRef<Path>, at: impl AsRef<Path>) -> anyhow::Result<()> {
        let (host, at) = (host.as_ref(), at.as_ref());
        let entries = fs::read_dir(host).with_context(|| host.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let (path, at) = (entry.path(), at.join(entry.file_name()));
            let meta = fs::symlink_metadata(&path)?;
            let kind = meta.file_type();
            let device = |kind| {
                let device = meta.rdev();
                Content::Device(kind, rustix::fs::major(device), rustix::fs::minor(device))
            };
            let content = match () {
                () if kind.is_dir() => Content::Directory,
                () if kind.is_file() => Content::Host(path.clone()),
                () if kind.is_symlink() => Content::Link(fs::read_link(&path)?),
                () if kind.is_char_device() => device(Device::Char),
                () if kind.is_block_device() => device(Device::Block),
                () if kind.is_fifo() => device(Device::Fifo),
                () => bail!("{}: what is it?", path.display()),
            };
            let node = Node { content, mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()) };
            self.parents(&at);
            self.nodes.insert(at.clone(), node);
            if kind.is_dir() {
                self.tree(&path, &at)?;
            }
        }
        Ok(())
    }

    /// Modules of a kernel (`folder` is its /lib/modules/RELEASE) with all that they depend on, loaded at boot. A
    /// name that is built into that kernel is passed over.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn modules(&mut self, folder: impl AsRef<Path>, names: &[&str]) -> anyhow::Result<()> {
        for (name, bytes) in modules::with_dependencies(folder.as_ref(), names)? {
            let at = format!("/lib/modules/{name}.ko");
            if !self.modules.contains(&at) {
                self.bytes(&at, 0o644, bytes);
                self.modules.push(at);
            }
        }
        Ok(())
    }

    /// Writes the archive.
    pub(super) fn write(&mut self, to: &Path) -> anyhow::Result<()> {
        let list = self.modules.iter().map(|module| format!("{module}\n")).collect::<String>();
        self.bytes("/lib/modules/order", 0o644, list);
        let mut out = BufWriter::new(File::create(to).with_context(|| to.display().to_string())?);
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            out = node.write(inode, path, out).with_context(|| path.display().to_string())?;
        }
        trailer(out)?.flush()?;
        Ok(())
    }

    fn put(&mut self, at: impl AsRef<Path>, content: Content, mode: u32) {
        let at = at.as_ref();
        self.parents(at);
        self.nodes.insert(at.to_owned(), Node { content, mode, owner: (0, 0) });
    }

    fn parents(&mut self, at: &Path) {
        for parent in at.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            let directory = || Node { content: Content::Directory, mode: 0o755, owner: (0, 0) };
            self.nodes.entry(parent.to_owned()).or_insert_with(directory);
        }
    }
}

impl Node {
    fn write<W: Write>(&self, inode: u32, path: &Path, out: W) -> anyhow::Result<W> {
        let name = path.strip_prefix("/")?.to_str().context("a name that isn't UTF-8")?;
        let header =
            Builder::new(name).ino(inode).nlink(1).mode(self.mode).uid(self.owner.0).gid(self.owner.1);
        let bytes = |header: Builder, kind, content: &mut dyn io::Read, len: u64, out: W| {
            let len = u32::try_from(len).context("more than 4 GiB")?;
            let mut file = header.set_mode_file_type(kind).write(out, len);
            io::copy(content, &mut file)?;
            Ok::<_, anyhow::Error>(file.finish()?)
        };
        match &self.content {
            Content::Bytes(content) => {
                bytes(header, ModeFileType::Regular, &mut content.as_slice(), content.len() as u64, out)
            }
            Content::Host(host) => {
                let mut file = File::open(host).with_context(|| host.display().to_string())?;
                let len = file.metadata()?.len();
                bytes(header, ModeFileType::Regular, &mut file, len, out)
            }
            Content::Link(to) => {
                let to = to.as_os_str().as_bytes();
                bytes(header, ModeFileType::Symlink, &mut &to[..], to.len() as u64, out)
            }
            Content::Directory => bytes(header, ModeFileType::Directory, &mut io::empty(), 0, out),
            Content::Device(kind, major, minor) => {
                let header = header.rdev_major(*major).rdev_minor(*minor);
                let kind = match kind {
                    Device::Char => ModeFileType::Char,
                    Device::Block => ModeFileType::Block,
                    Device::Fifo => ModeFileType::Fifo,
                };
                bytes(header, kind, &mut io::empty(), 0, out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn parents_come_before_what_is_in_them() {
        let mut files = Initramfs::default();
        files.bytes("/a/b/c", 0o600, "text");
        files.link("/a/l", "b/c");
        let path = std::env::temp_dir().join(format!("initramfs-test-{}", std::process::id()));
        files.write(&path).unwrap();
        let mut file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let mut names = Vec::new();
        loop {
            let reader = Reader::new(&mut file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().file_size()));
            reader.finish().unwrap();
        }
        let at = |name: &str| names.iter().position(|(known, ..)| known == name).unwrap();
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/c"));
        assert_eq!(names[at("a/b/c")], ("a/b/c".to_owned(), 0o100_600, 4));
        assert_eq!(names[at("a/l")], ("a/l".to_owned(), 0o120_777, 3));
        assert_eq!(names[at("a")].1, 0o040_755);
    }
}
