//! What of the project goes into a kernel, and the hash of it.

use super::files::{below, get};
use super::toolchain::Toolchain;
use super::{Flavour, Variant};
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `kernel/` and where they go to in the tree.
const PLACES: [(&str, &str); 2] = [("src", "mm/process_vm"), ("include", "include")];

/// Files and patches for one kernel.
pub(super) struct Inputs {
    /// New files, by their path in the tree.
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    /// In the order in which they are applied.
    pub(super) patches: Vec<PathBuf>,
    /// Configurations, each over the ones before it.
    pub(super) configs: Vec<PathBuf>,
    /// The source that the patches were written for.
    pub(super) version: String,
}

impl Inputs {
    /// Reads them from `kernel/`.
    pub(super) fn read(folder: &Path, flavour: Flavour, variant: Variant) -> anyhow::Result<Self> {
        let config = |name: &str| folder.join("config").join(name);
        let mut inputs = Self {
            files: BTreeMap::new(),
            patches: Vec::new(),
            configs: vec![config("small.config")],
            version: fs::read_to_string(folder.join("VERSION")).context("kernel/VERSION")?.trim().to_owned(),
        };
        if flavour == Flavour::Debug {
            inputs.configs.push(config("debug.config"));
        }
        if variant == Variant::Patched {
            inputs.configs.push(config("calls.config"));
            let patches = folder.join("patches");
            inputs.patches = below(&patches)?.into_iter().map(|path| patches.join(path)).collect();
            inputs.patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
            for (from, to) in PLACES {
                let from = folder.join(from);
                for file in below(&from)? {
                    inputs.files.insert(Path::new(to).join(&file), get(&from.join(file))?);
                }
            }
        }
        Ok(inputs)
    }

    /// A name for the kernel that these and the toolchain make: equal names, equal kernels.
    pub(super) fn key(&self, toolchain: &Toolchain) -> String {
        let mut hash = Hash::default();
        hash.text(&toolchain.versions);
        for (path, text) in &self.files {
            hash.text(&path.to_string_lossy());
            hash.bytes(text);
        }
        for path in self.patches.iter().chain(&self.configs) {
            hash.text(&path.file_name().unwrap_or_default().to_string_lossy());
            hash.bytes(&fs::read(path).unwrap_or_default());
        }
        hash.name()
    }
}

/// A hash of several things, none of which can run into the next.
#[derive(Default)]
pub(super) struct Hash(Sha256);

impl Hash {
    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Enough of it for a file name.
    pub(super) fn name(self) -> String {
        self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Hash;

    #[test]
    fn what_is_hashed_does_not_run_together() {
        let name = |texts: [&str; 2]| {
            let mut hash = Hash::default();
            texts.into_iter().for_each(|text| hash.text(text));
            hash.name()
        };
        assert_ne!(name(["ab", "c"]), name(["a", "bc"]));
        assert_eq!(name(["ab", "c"]), name(["ab", "c"]));
        assert_eq!(name(["ab", "c"]).len(), 16);
    }
}
