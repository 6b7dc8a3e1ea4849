//! A kernel's source and objects, which one program at a time builds in.
//!
//! ```text
//! linux/       source and objects
//! pristine/    originals of what the patches change
//! scratch/     overlay.rs
//! make.log     of the last build
//! lock         held while somebody builds; the kernel lets go of it when that program dies
//! ```
//! The source is complete if it is there. A build that was killed is continued by the next one.

use super::cache::Cache;
use super::files::get;
use super::inputs::Inputs;
use super::make::Make;
use super::overlay::Overlay;
use super::toolchain::{SOURCE, Toolchain};
use super::{Flavour, Variant, config};
use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

/// A tree that is ours until this is dropped.
pub(super) struct Tree {
    path: PathBuf,
    source: PathBuf,
    family: String,
    make: Make,
    _lock: fs::File,
}

impl Tree {
    /// Waits for its turn, and unpacks the source where there is none.
    pub(super) fn open(
        shell: &Shell,
        cache: &Cache,
        toolchain: &Toolchain,
        flavour: Flavour,
        variant: Variant,
    ) -> anyhow::Result<Self> {
        let family = format!("tree-{flavour}-{variant}-");
        let path = cache.path().join(format!("{family}{}", toolchain.key()));
        fs::create_dir_all(&path)?;
        let lock = fs::File::create(path.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            println!("waiting for another build in {}", path.display());
            flock(&lock, FlockOperation::LockExclusive)?;
        }
        let source = path.join("linux");
        if !source.exists() {
            unpack(shell, &path, &source)?;
        }
        let make = Make::new(&source, path.join("make.log"), toolchain);
        Ok(Self { path, source, family, make, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the names of all trees for the same kernel begin with.
    pub(super) fn family(&self) -> &str {
        &self.family
    }

    /// Where make puts what it makes.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// Brings the tree in line with the inputs and builds the image.
    pub(super) fn build(&self, inputs: &Inputs) -> anyhow::Result<()> {
        self.compare_version(&inputs.version)?;
        let (pristine, scratch) = (self.path.join("pristine"), self.path.join("scratch"));
        Overlay { source: &self.source, pristine: &pristine, scratch: &scratch }.apply(inputs)?;
        config::configure(&self.make, &self.source, &inputs.configs)?;
        self.make.image()
    }

    /// Debian's package moves on within 6.12. Patches that still apply are as good there; those that don't say so.
    fn compare_version(&self, expected: &str) -> anyhow::Result<()> {
        let makefile = String::from_utf8(get(&self.source.join("Makefile"))?)?;
        let value = |name: &str| {
            let line = makefile.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
            line.map(str::trim).context("no version in the kernel's Makefile")
        };
        let found = [value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?].join(".");
        if found != expected {
            println!("note: the patches are for Linux {expected}, this is {found}");
        }
        Ok(())
    }
}

/// Debian ships the source as one archive.
fn unpack(shell: &Shell, path: &Path, source: &Path) -> anyhow::Result<()> {
    let archive = PathBuf::from(format!("/usr/src/{SOURCE}.tar.xz"));
    if !archive.exists() {
        bail!("{} is not there, though the package {SOURCE} is installed", archive.display());
    }
    println!("== {SOURCE}: unpacking");
    let unfinished = path.join("unpacking");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    cmd!(shell, "tar --extract --file {archive} --directory {unfinished} --strip-components 1")
        .quiet()
        .run()
        .with_context(|| format!("{}; is there room for 3 GiB?", path.display()))?;
    fs::rename(&unfinished, source)?;
    Ok(())
}
