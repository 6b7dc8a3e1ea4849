//! `cargo xtask kernel build`: from `kernel/` and Debian's source package to an image.
//!
//! Everything that is made lies in a cache outside of the tree ([`cache`]). An image has the hash of all that went into it
//! for a name, so that what is there is right. Behind it is a tree with objects, which what has changed is built in.

mod cache;
mod config;
mod files;
mod inputs;
mod make;
mod overlay;
mod toolchain;
mod tree;

use anyhow::Context;
use cache::Cache;
use inputs::Inputs;
use std::fmt;
use std::path::PathBuf;
use toolchain::Toolchain;
use tree::Tree;
use xshell::Shell;

/// Which kernel.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// With everything that finds mistakes: KASAN, lockdep, UBSAN and more.
    #[arg(long)]
    debug: bool,
    /// Without the calls, to compare with.
    #[arg(long)]
    unpatched: bool,
}

/// How it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// What the tests need.
    Small,
    /// The same, and everything that finds mistakes.
    Debug,
}

/// What it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Debian's source with `kernel/`.
    Patched,
    /// Debian's source.
    Unpatched,
}

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bzimage: PathBuf,
    /// With symbols.
    pub(crate) vmlinux: PathBuf,
    pub(crate) config: PathBuf,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "small",
            Self::Debug => "debug",
        })
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Patched => "patched",
            Self::Unpatched => "unpatched",
        })
    }
}

/// Builds and says where it is.
pub(super) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let flavour = if options.debug { Flavour::Debug } else { Flavour::Small };
    let variant = if options.unpatched { Variant::Unpatched } else { Variant::Patched };
    let image = image(shell, flavour, variant)?;
    println!("{}\n{}\n{}", image.bzimage.display(), image.vmlinux.display(), image.config.display());
    Ok(true)
}

/// Why none can be built here, if that is so.
pub(crate) fn obstacle(shell: &Shell) -> Option<String> {
    let missing = toolchain::out_of_reach(shell);
    let list = missing.iter().copied().collect::<Vec<_>>().join(" ");
    (!missing.is_empty()).then(|| {
        format!("building a kernel takes Debian packages that are not here and can't be installed: {list}")
    })
}

/// A kernel: from the cache, or built.
///
/// # Errors
/// A package can't be installed, a patch doesn't apply, or the build fails; the message has the end of its log.
pub(crate) fn image(shell: &Shell, flavour: Flavour, variant: Variant) -> anyhow::Result<Image> {
    let cache = Cache::open()?;
    let toolchain = Toolchain::ensure(shell, &cache)?;
    let inputs = Inputs::read(&shell.current_dir().join("kernel"), flavour, variant)?;
    let key = inputs.key(&toolchain);
    if let Some(image) = cache.image(&key) {
        return Ok(image);
    }
    let what = format!("the {variant} {flavour} kernel");
    let tree = Tree::open(shell, &cache, &toolchain, flavour, variant).with_context(|| what.clone())?;
    // Somebody else may have built it while we waited for the tree.
    if let Some(image) = cache.image(&key) {
        return Ok(image);
    }
    tree.build(&inputs).with_context(|| what)?;
    let image = cache.keep(&key, tree.source())?;
    cache.tidy(&tree)?;
    Ok(image)
}
