//! An image directory that has its name only when it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use farspace_image::criu::{
    CriuError, DumpStats, INVENTORY, ImageId, Inventory, PARENT, PageFlags, PageRun, PagemapReader,
    PagemapWriter, STATS, pages_name,
};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat, renameat_with};
use rustix::io::Errno;

use super::{PageSink, PageSource, Place};
use crate::dirty::PageSet;
use crate::{Error, Result};

/// A new image directory. Until it is finished it has a hidden name beside its own; dropped before, it is gone.
///
/// What a killed process has left of one is taken away when the same directory is begun again.
#[derive(Debug)]
pub struct ImageDirectory {
    path: PathBuf,
    partial: Option<PathBuf>,
    parent: Option<PathBuf>,
    image: Option<Image>,
    images: u32,
    /// Locked for as long as somebody works on it.
    _lock: File,
}

/// The image under way.
#[derive(Debug)]
struct Image {
    pagemap: PagemapWriter<BufWriter<File>>,
    pagemap_path: PathBuf,
    pages: File,
    pages_path: PathBuf,
    pages_bytes: u64,
}

impl ImageDirectory {
    /// Begins a directory. An empty one that is there already is replaced.
    ///
    /// # Errors
    ///
    /// There is something else of that name; the parent isn't an image directory; no right or space to write.
    pub fn create(path: &Path, parent: Option<&Path>) -> Result<Self> {
        if path.file_name().is_none() {
            return Err(output("create", path, Errno::INVAL.into()));
        }
        if path.symlink_metadata().is_ok() && !is_empty_directory(path) {
            return Err(Error::NotEmpty { path: path.to_owned() });
        }
        remove_abandoned(path);
        let partial = hidden_name(path, &std::process::id().to_string());
        let fail = |e| output("create", path, e);
        // Readable by the owner alone: memory holds secrets.
        fs::DirBuilder::new().mode(0o700).create(&partial).map_err(fail)?;
        let lock = File::open(&partial).map_err(fail)?;
        let mut directory = Self {
            path: path.to_owned(),
            partial: Some(partial.clone()),
            parent: None,
            image: None,
            images: 0,
            _lock: lock,
        };
        flock(&directory._lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
        if let Some(parent) = parent {
            let found = parent.canonicalize().map_err(|source| input(parent, source.into()))?;
            let inventory = found.join(INVENTORY);
            read_image(&inventory, |mut file| Inventory::read(&mut file))?;
            let link = partial.join(PARENT);
            symlink(link_target(path, &found), &link).map_err(|e| output("create", &link, e))?;
            directory.parent = Some(found);
        }
        Ok(directory)
    }

    /// Its name when it is finished.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name now.
    pub fn current_path(&self) -> &Path {
        self.partial.as_deref().unwrap_or(&self.path)
    }

    fn new_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.current_path().join(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|e| output("create", &path, e))?;
        Ok((file, path))
    }
}

impl PageSink for ImageDirectory {
    fn parent_inventory(&mut self) -> Result<Option<Inventory>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        read_image(&parent.join(INVENTORY), |mut file| Inventory::read(&mut file)).map(Some)
    }

    fn parent(&mut self, image: ImageId, there: &PageSet) -> Result<Option<PageSet>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        let path = parent.join(image.pagemap_name());
        if path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let (pages_id, wanted, set) = read_image(&path, |file| {
            let reader = PagemapReader::new(file)?;
            let (pages_id, mut wanted, mut set) = (reader.pages_id(), 0_u64, PageSet::default());
            for run in reader {
                let run = run?;
                if run.flags.contains(PageFlags::PRESENT) {
                    wanted = wanted.saturating_add(run.len_bytes());
                }
                // Whatever the image says, this doesn't grow beyond what there is.
                set.add(&there.within(run.range()));
            }
            Ok((pages_id, wanted, set))
        })?;
        let pages = parent.join(pages_name(pages_id));
        match pages.metadata() {
            Ok(found) if found.len() >= wanted => Ok(Some(set)),
            Ok(_) => Err(input(&pages, CriuError::Cut)),
            // A pagemap that only refers to its own parent needs none.
            Err(e) if e.kind() == io::ErrorKind::NotFound && wanted == 0 => Ok(Some(set)),
            Err(e) => Err(input(&pages, e.into())),
        }
    }

    fn begin(&mut self, image: ImageId) -> Result<()> {
        self.images += 1;
        let (pagemap, pagemap_path) = self.new_file(&image.pagemap_name())?;
        let (pages, pages_path) = self.new_file(&pages_name(self.images))?;
        let pagemap = PagemapWriter::new(BufWriter::new(pagemap), self.images)
            .map_err(|e| written(&pagemap_path, e))?;
        self.image = Some(Image { pagemap, pagemap_path, pages, pages_path, pages_bytes: 0 });
        Ok(())
    }

    fn pages(&mut self, runs: &[PageRun], memory: &mut dyn PageSource) -> Result<()> {
        let Some(image) = &mut self.image else { return Err(unfinished(&self.path)) };
        let present: Vec<PageRun> =
            runs.iter().filter(|run| run.flags.contains(PageFlags::PRESENT)).copied().collect();
        let bytes: u64 = present.iter().map(PageRun::len_bytes).sum();
        if bytes > 0 {
            let end = image.pages_bytes + bytes;
            let fail = |e| output("write", &image.pages_path, e);
            image.pages.set_len(end).map_err(fail)?;
            let place = Place::File(image.pages.as_fd(), image.pages_bytes);
            memory.splice(&present, place).map_err(|error| match error {
                Error::Target(e) if e.operation() == farspace::WRITE_OUT => fail(e.errno().into()),
                other => other,
            })?;
            image.pages_bytes = end;
        }
        for run in runs {
            image.pagemap.push(*run).map_err(|e| written(&image.pagemap_path, e))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(image) = self.image.take() else { return Err(unfinished(&self.path)) };
        image.pagemap.finish().map_err(|e| written(&image.pagemap_path, e))?;
        // A process that ended has left the room for its last pages.
        image.pages.set_len(image.pages_bytes).map_err(|e| output("write", &image.pages_path, e))
    }

    fn finish(&mut self, inventory: &Inventory, stats: &DumpStats) -> Result<()> {
        let (mut file, path) = self.new_file(STATS)?;
        stats.write(&mut file).map_err(|e| written(&path, e))?;
        let (mut file, path) = self.new_file(INVENTORY)?;
        inventory.write(&mut file).map_err(|e| written(&path, e))?;
        let Some(partial) = &self.partial else { return Err(unfinished(&self.path)) };
        match name(partial, &self.path) {
            Ok(()) => self.partial = None,
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {
                return Err(Error::NotEmpty { path: self.path.clone() });
            }
            Err(errno) => return Err(output("name", &self.path, errno.into())),
        }
        Ok(())
    }
}

impl Drop for ImageDirectory {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = fs::remove_dir_all(partial);
        }
    }
}

/// Gives a directory its name, unless something has it that isn't an empty directory.
fn name(partial: &Path, path: &Path) -> std::result::Result<(), Errno> {
    match renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
        // rename(2) replaces an empty directory and nothing else by a directory.
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => renameat(CWD, partial, CWD, path),
        other => other,
    }
}

/// Takes away what others have left of this directory when they were killed: what nobody holds the lock of.
pub(crate) fn remove_abandoned(path: &Path) {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Some(first), Some(last)) = split_hidden(path) else { return };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let pid = name.strip_prefix(first.as_slice()).and_then(|rest| rest.strip_suffix(last.as_slice()));
        if !pid.is_some_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit)) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What a hidden name begins and ends with.
fn split_hidden(path: &Path) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let whole = hidden_name(path, "/");
    let whole = whole.as_os_str().as_encoded_bytes();
    let Some(name) = path.file_name() else { return (None, None) };
    // "." + name + "." before the pid, which is "/" here.
    let last = whole.iter().rposition(|&b| b == b'/').map(|at| whole[at + 1..].to_vec());
    let first = [b".", name.as_encoded_bytes(), b"."].concat();
    (Some(first), last)
}

fn hidden_name(path: &Path, pid: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{pid}.partial"));
    path.with_file_name(name)
}

fn is_empty_directory(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// What the link says: a way from the one directory to the other, so that both can be moved together.
pub(crate) fn link_target(path: &Path, parent: &Path) -> PathBuf {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(directory), Some(name)) = (directory.canonicalize(), path.file_name()) else {
        return parent.to_owned();
    };
    let from = directory.join(name);
    let common = from.components().zip(parent.components()).take_while(|(a, b)| a == b).count();
    // With nothing but the root in common they aren't moved together.
    if common < 2 {
        return parent.to_owned();
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(parent.components().skip(common)).collect()
}

fn read_image<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> std::result::Result<T, CriuError>,
) -> Result<T> {
    let file = File::open(path).map_err(|e| input(path, e.into()))?;
    read(BufReader::new(file)).map_err(|e| input(path, e))
}

fn input(path: &Path, source: CriuError) -> Error {
    Error::Parent { path: path.to_owned(), source }
}

fn written(path: &Path, error: CriuError) -> Error {
    match error {
        CriuError::Io(source) => output("write", path, source),
        // An order of runs that no image can have: a mistake of farspace's, not of the file system's.
        other => output("write", path, io::Error::other(other)),
    }
}

fn unfinished(path: &Path) -> Error {
    output("write", path, io::Error::other("its parts came in a wrong order"))
}

fn output(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Output { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
