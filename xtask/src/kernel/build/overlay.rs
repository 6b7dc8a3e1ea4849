//! Making a tree be its source plus the project's files and patches, touching only what has to change.
//!
//! The originals of what patches change are kept beside the tree, so that any other series can follow. A file whose
//! contents are right already keeps its time: make builds what really changed, and nothing else.

use super::files::{below, get, put};
use super::inputs::Inputs;
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that is ours in the tree: what else lies there was ours before.
const OURS: &str = "mm/process_vm";

/// A tree that files are laid over.
pub(super) struct Overlay<'a> {
    pub(super) source: &'a Path,
    /// The originals of the files that patches have ever changed.
    pub(super) pristine: &'a Path,
    /// A folder to work in.
    pub(super) scratch: &'a Path,
}

impl Overlay<'_> {
    /// Applies the patches to the originals and copies the files, where that makes a difference.
    ///
    /// # Errors
    /// A patch doesn't apply.
    pub(super) fn apply(&self, inputs: &Inputs) -> anyhow::Result<()> {
        self.keep_originals(&inputs.patches)?;
        if self.scratch.exists() {
            fs::remove_dir_all(self.scratch)?;
        }
        fs::create_dir_all(self.scratch)?;
        let originals = below(self.pristine)?;
        for path in &originals {
            put(&self.scratch.join(path), &get(&self.pristine.join(path))?)?;
        }
        for patch in &inputs.patches {
            self.patch(patch)?;
        }
        for path in &originals {
            put(&self.source.join(path), &get(&self.scratch.join(path))?)?;
        }
        fs::remove_dir_all(self.scratch)?;
        for (path, text) in &inputs.files {
            put(&self.source.join(path), text)?;
        }
        self.remove_others(inputs)
    }

    /// Keeps the originals of what the patches change, unless they are kept already.
    fn keep_originals(&self, patches: &[PathBuf]) -> anyhow::Result<()> {
        for patch in patches {
            let text = String::from_utf8(get(patch)?).with_context(|| patch.display().to_string())?;
            for path in text.lines().filter_map(|line| line.strip_prefix("--- a/")) {
                let (original, kept) = (self.source.join(path), self.pristine.join(path));
                if !kept.exists() {
                    let text = get(&original).with_context(|| format!("{} changes it", patch.display()))?;
                    put(&kept, &text)?;
                }
            }
        }
        Ok(())
    }

    /// Without fuzz: a hook that lands somewhere else than it was meant to is worse than none.
    fn patch(&self, patch: &Path) -> anyhow::Result<()> {
        let mut command = Command::new("patch");
        command.args(["--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--batch", "--directory"]);
        let output = command.arg(self.scratch).arg("--input").arg(patch).output().context("patch")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("{} doesn't apply to this source:\n{said}", patch.display());
        }
        Ok(())
    }

    /// Removes sources of ours that there are no longer.
    fn remove_others(&self, inputs: &Inputs) -> anyhow::Result<()> {
        for path in below(&self.source.join(OURS))? {
            let is_source = path.extension().is_some_and(|kind| kind == "rs" || kind == "c" || kind == "h");
            let path = Path::new(OURS).join(path);
            if is_source && !inputs.files.contains_key(&path) {
                fs::remove_file(self.source.join(path))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    #[test]
    fn a_series_follows_another_and_what_is_right_is_not_touched() {
        let folder = std::env::temp_dir().join(format!("farspace-overlay-{}", std::process::id()));
        let [source, pristine, scratch] = ["source", "pristine", "scratch"].map(|name| folder.join(name));
        let (one, two) = (source.join("one"), source.join("two"));
        put(&one, b"1\n").unwrap();
        put(&two, b"2\n").unwrap();
        let patch = |name: &str, text: &str| {
            put(&folder.join(name), text.as_bytes()).unwrap();
            folder.join(name)
        };
        let inputs = |patches: &[&PathBuf], file: &str| Inputs {
            files: BTreeMap::from([(Path::new(OURS).join(file), b"x".to_vec())]),
            patches: patches.iter().map(|path| (*path).clone()).collect(),
            configs: Vec::new(),
            version: String::new(),
        };
        let first = patch("first", "--- a/one\n+++ b/one\n@@ -1 +1 @@\n-1\n+eins\n");
        let second = patch("second", "--- a/two\n+++ b/two\n@@ -1 +1 @@\n-2\n+zwei\n");
        let overlay = Overlay { source: &source, pristine: &pristine, scratch: &scratch };

        overlay.apply(&inputs(&[&first], "a.rs")).unwrap();
        assert_eq!((get(&one).unwrap(), get(&two).unwrap()), (b"eins\n".to_vec(), b"2\n".to_vec()));

        let old = SystemTime::UNIX_EPOCH;
        fs::File::open(&one).unwrap().set_modified(old).unwrap();
        overlay.apply(&inputs(&[&first, &second], "b.rs")).unwrap();
        assert_eq!((get(&one).unwrap(), get(&two).unwrap()), (b"eins\n".to_vec(), b"zwei\n".to_vec()));
        assert_eq!(fs::metadata(&one).unwrap().modified().unwrap(), old);
        assert_eq!(below(&source.join(OURS)).unwrap(), [Path::new("b.rs")]);

        overlay.apply(&inputs(&[], "b.rs")).unwrap();
        assert_eq!((get(&one).unwrap(), get(&two).unwrap()), (b"1\n".to_vec(), b"2\n".to_vec()));

        let wrong = patch("wrong", "--- a/one\n+++ b/one\n@@ -1 +1 @@\n-7\n+sieben\n");
        assert!(overlay.apply(&inputs(&[&wrong], "b.rs")).unwrap_err().to_string().contains("doesn't apply"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
