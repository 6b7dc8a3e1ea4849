//! Directories that are finished, given up, chained and damaged.

use farspace_sys::RemoteIoVec;

use super::*;

/// Pages that are full of the number of the page.
struct Numbered;

impl PageSource for Numbered {
    fn splice(&mut self, runs: &[PageRun], to: Place<'_>) -> Result<()> {
        for (page, done) in runs.iter().flat_map(|run| run.range().step_by(4096)).zip((0..).step_by(4096)) {
            to.after(done).write_all(&[(page / 4096) as u8; 4096]).expect("room");
        }
        Ok(())
    }

    fn read(&mut self, vaddr: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.fill((vaddr / 4096) as u8);
        Ok(())
    }
}

fn run(page: u64, nr_pages: u64, flags: PageFlags) -> PageRun {
    PageRun { vaddr: page * 4096, nr_pages, flags }
}

fn write(path: &Path, parent: Option<&Path>, runs: &[PageRun]) -> Result<()> {
    let mut directory = ImageDirectory::create(path, parent)?;
    directory.begin(ImageId::Process(1))?;
    directory.pages(runs, &mut Numbered)?;
    directory.end()?;
    directory.finish(&Inventory { dump_uptime_us: Some(1), ..Inventory::default() }, &DumpStats::default())
}

fn names(path: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(path).expect("there").map(|e| e.expect("there").file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_has_its_name_only_when_finished() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("one");
    let mut directory = ImageDirectory::create(&path, None).expect("created");
    directory.begin(ImageId::Process(1)).expect("begun");
    assert!(!path.exists());
    drop(directory);
    assert_eq!(names(place.path()).len(), 0);

    write(&path, None, &[run(1, 2, PageFlags::PRESENT), run(9, 1, PageFlags::PRESENT)]).expect("written");
    assert_eq!(names(place.path()), ["one"]);
    assert_eq!(names(&path), ["inventory.img", "pagemap-1.img", "pages-1.img", "stats-dump"]);
    let pages = fs::read(path.join("pages-1.img")).expect("there");
    assert_eq!((pages.len(), pages[0], pages[4096], pages[8192]), (3 * 4096, 1, 2, 9));
    assert!(matches!(write(&path, None, &[]), Err(Error::NotEmpty { .. })));
}

#[test]
fn an_empty_directory_is_replaced() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("made before");
    fs::create_dir(&path).expect("made");
    write(&path, None, &[]).expect("replaced");
    assert!(path.join(INVENTORY).exists());
}

#[test]
fn what_comes_in_between_stays() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("wanted");
    let mut directory = ImageDirectory::create(&path, None).expect("created");
    fs::write(&path, "another's").expect("written");
    let finished = directory.finish(&Inventory::default(), &DumpStats::default());
    assert!(matches!(finished, Err(Error::NotEmpty { .. })));
    drop(directory);
    assert_eq!(
        (names(place.path()), fs::read(&path).expect("there")),
        (vec!["wanted".into()], b"another's".to_vec())
    );
}

#[test]
fn abandoned_directories_are_removed_and_living_ones_are_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("x");
    let abandoned = place.path().join(".x.4000000.partial");
    let unrelated = place.path().join(".x.y.partial");
    for name in [&abandoned, &unrelated] {
        fs::create_dir(name).expect("made");
    }
    let living = place.path().join(".x.4000001.partial");
    fs::create_dir(&living).expect("made");
    let lock = File::open(&living).expect("there");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
    write(&path, None, &[]).expect("written");
    assert_eq!((abandoned.exists(), unrelated.exists(), living.exists()), (false, true, true));
}

#[test]
fn a_chain_is_linked_and_read() {
    let place = tempfile::tempdir().expect("a directory");
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    write(&one, None, &[run(1, 2, PageFlags::PRESENT)]).expect("written");
    write(&two, Some(&one), &[run(1, 1, PageFlags::PARENT), run(2, 1, PageFlags::PRESENT)]).expect("written");
    assert_eq!(fs::read_link(two.join(PARENT)).expect("a link"), Path::new("../one"));

    let mut three = ImageDirectory::create(&place.path().join("three"), Some(&two)).expect("created");
    assert_eq!(three.parent_inventory().expect("read").expect("there").dump_uptime_us, Some(1));
    let mut there = PageSet::default();
    there.insert(0..u64::from(u32::MAX));
    let pages = three.parent(ImageId::Process(1), &there).expect("read").expect("there");
    assert!(pages.runs().eq(std::iter::once(RemoteIoVec::new(4096, 2 * 4096))));
    assert!(three.parent(ImageId::Process(2), &there).expect("not there").is_none());
}

#[test]
fn a_damaged_parent_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    let create = || ImageDirectory::create(&two, Some(&one));
    assert!(matches!(create(), Err(Error::Parent { .. })));
    write(&one, None, &[run(1, 2, PageFlags::PRESENT)]).expect("written");
    File::options().write(true).open(one.join("pages-1.img")).and_then(|f| f.set_len(4096)).expect("cut");
    let mut directory = create().expect("its inventory is whole");
    assert!(matches!(directory.parent(ImageId::Process(1), &PageSet::default()), Err(Error::Parent { .. })));
    drop(directory);
    fs::write(one.join(INVENTORY), "x").expect("written");
    assert!(matches!(create(), Err(Error::Parent { .. })));
    assert_eq!(names(place.path()), ["one"]);
}
