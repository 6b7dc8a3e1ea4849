//! Where everything that is made lies: `$XDG_CACHE_HOME/farspace/kernel`, by default in `~/.cache`.
//!
//! ```text
//! bindgen-VERSION/bin/bindgen
//! image-KEY/{bzImage,vmlinux,config}     a folder that is there is complete
//! tree-FLAVOUR-VARIANT-KEY/              source and objects: tree.rs
//! ```

use super::Image;
use super::tree::Tree;
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Images that are kept; one takes some 50 MiB.
const IMAGES: usize = 8;

/// The files of an image: their names here, and in the tree.
const FILES: [(&str, &str); 3] =
    [("bzImage", "arch/x86/boot/bzImage"), ("vmlinux", "vmlinux"), ("config", ".config")];

/// The folder.
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn open() -> anyhow::Result<Self> {
        let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let root = given.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set: nowhere to build")?;
        let path = root.join("farspace/kernel");
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The image that was made of these inputs.
    pub(super) fn image(&self, key: &str) -> Option<Image> {
        let folder = self.0.join(format!("image-{key}"));
        // Which ones are used is what `tidy` goes by.
        let _ = fs::File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        let [bzimage, vmlinux, config] = FILES.map(|(name, _)| folder.join(name));
        folder.exists().then_some(Image { bzimage, vmlinux, config })
    }

    /// Keeps what a tree has made, under the name of its inputs.
    pub(super) fn keep(&self, key: &str, source: &Path) -> anyhow::Result<Image> {
        let unfinished = self.0.join(format!("unfinished-{key}"));
        fs::create_dir_all(&unfinished)?;
        for (name, from) in FILES {
            let from = source.join(from);
            fs::copy(&from, unfinished.join(name)).with_context(|| from.display().to_string())?;
        }
        fs::rename(&unfinished, self.0.join(format!("image-{key}")))?;
        self.image(key).context("the cache loses what is put into it")
    }

    /// Removes the oldest images, and trees like `tree` that nobody will build in again: of another source, or of
    /// other compilers.
    pub(super) fn tidy(&self, tree: &Tree) -> anyhow::Result<()> {
        let mut images = self.folders("image-")?;
        images
            .sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).and_then(|data| data.modified()).ok()));
        for old in images.into_iter().skip(IMAGES) {
            fs::remove_dir_all(&old).with_context(|| old.display().to_string())?;
        }
        for other in self.folders(tree.family())?.into_iter().filter(|path| path != tree.path()) {
            fs::remove_dir_all(&other).with_context(|| other.display().to_string())?;
        }
        Ok(())
    }

    fn folders(&self, prefix: &str) -> anyhow::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.0)?.flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        Ok(named.map(|entry| entry.path()).collect())
    }
}
