//! The server against clients that break off or lie.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use farspace_image::criu::{ImageId, PageFlags, PageRun, Pagemap};
use farspace_image::page_server::{Answer, MESSAGE_LEN, Request, Run};
use proptest::prelude::*;

use super::PageServerReport;
use crate::Result;
use crate::stream::{Address, ReceiveOptions, Receiver};

const PAGE: usize = 4096;
const PROCESS: ImageId = ImageId::Process(42);
const SHARED: ImageId = ImageId::Shared(7);

struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Serves a client that sends these bytes and closes; what the client was answered.
    fn serve(&self, name: &str, parent: Option<&str>, bytes: &[u8]) -> (Result<PageServerReport>, Vec<u8>) {
        let socket = self.path("socket");
        let receiver = Receiver::listen(&Address::Unix(socket.clone())).expect("listens");
        // Nobody has to wait for it, and everybody may be without a CPU for a while.
        let options = ReceiveOptions { timeout: Duration::from_secs(60), ..ReceiveOptions::default() };
        let parent = parent.map(|parent| self.path(parent));
        let is_sent = AtomicBool::new(false);
        thread::scope(|scope| {
            let is_sent = &is_sent;
            let client = scope.spawn(move || {
                let answer = send(&socket, bytes);
                is_sent.store(true, Ordering::SeqCst);
                answer
            });
            // One that is turned away leaves the server waiting for another: a look every 50 ms.
            let mut looks = 0;
            let mut look = || {
                looks += u32::from(is_sent.load(Ordering::SeqCst));
                looks
            };
            let go_on = &mut |_| match look() > 40 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let served = receiver.serve_pages(&self.path(name), parent.as_deref(), &options, go_on);
            drop(receiver);
            (served, client.join().expect("no panic"))
        })
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("readable").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

fn send(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn present(to: ImageId, page: u64, nr_pages: u32, fill: u8) -> Vec<u8> {
    let run = Run { address: page * PAGE as u64, nr_pages, flags: PageFlags::PRESENT };
    [&Request::Add(to, run).encode()[..], &vec![fill; nr_pages as usize * PAGE]].concat()
}

fn in_parent(to: ImageId, page: u64, nr_pages: u32) -> Vec<u8> {
    let run = Run { address: page * PAGE as u64, nr_pages, flags: PageFlags::PARENT };
    Request::Add(to, run).encode().to_vec()
}

fn open(image: ImageId) -> Vec<u8> {
    Request::Open(image, Answer::HasParent).encode().to_vec()
}

fn session() -> Vec<u8> {
    [
        Request::Parent(PROCESS).encode().to_vec(),
        open(PROCESS),
        present(PROCESS, 16, 2, 1),
        present(PROCESS, 18, 1, 2),
        present(PROCESS, 32, 1, 3),
        open(SHARED),
        present(SHARED, 0, 1, 4),
        Request::Flush.encode().to_vec(),
    ]
    .concat()
}

#[test]
fn images_of_a_chain() {
    let stage = Stage::new();
    let (served, answer) = stage.serve("1", None, &session());
    let report = served.expect("complete");
    assert_eq!((report.pages, report.images.len()), (5, 2));
    // No parent; no parent, twice; all is there.
    assert_eq!(answer, [0; 4 + 1 + 1 + 4]);
    let map = Pagemap::read(File::open(stage.path("1/pagemap-42.img")).expect("there")).expect("a pagemap");
    let run = |vaddr, nr_pages, flags| PageRun { vaddr, nr_pages, flags };
    assert_eq!(map.runs(), [run(0x10000, 3, PageFlags::PRESENT), run(0x20000, 1, PageFlags::PRESENT)]);
    let pages = fs::read(stage.path(&format!("1/pages-{}.img", map.pages_id))).expect("there");
    assert_eq!(pages, [[1; PAGE], [1; PAGE], [2; PAGE], [3; PAGE]].concat());

    let next = [
        Request::Parent(PROCESS).encode().to_vec(),
        open(PROCESS),
        in_parent(PROCESS, 17, 2),
        present(PROCESS, 32, 1, 9),
        Request::Close.encode().to_vec(),
    ];
    let (served, answer) = stage.serve("2", Some("1"), &next.concat());
    let report = served.expect("complete");
    assert_eq!((report.pages, report.pages_in_parent), (1, 2));
    assert_eq!(answer, [1, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(fs::read_link(stage.path("2/parent")).expect("a link"), Path::new("../1"));
}

/// Cut after any message, in the middle of one, or in the middle of pages: nothing is left.
#[test]
fn a_cut_leaves_nothing() {
    let bytes = session();
    let near = |cut: usize| cut % 512 < MESSAGE_LEN * 2 || cut + MESSAGE_LEN * 2 > bytes.len();
    for cut in (MESSAGE_LEN..bytes.len()).filter(|cut| near(*cut)) {
        let stage = Stage::new();
        let (served, _) = stage.serve("1", None, &bytes[..cut]);
        let error = served.expect_err("cut").to_string();
        assert!(error.contains("closed the connection before the end"), "cut after {cut}: {error}");
        assert_eq!(stage.names(), [""; 0], "cut after {cut}");
    }
}

#[test]
fn lies_are_refused() {
    let flush = Request::Flush.encode().to_vec();
    let lies: [(&str, Vec<Vec<u8>>); 7] = [
        ("pages of nothing", vec![present(PROCESS, 1, 1, 0)]),
        ("pages of another image", vec![open(PROCESS), present(SHARED, 1, 1, 0)]),
        ("pages out of order", vec![open(PROCESS), present(PROCESS, 9, 1, 0), present(PROCESS, 8, 1, 0)]),
        ("pages twice", vec![open(PROCESS), present(PROCESS, 9, 2, 0), present(PROCESS, 10, 1, 0)]),
        ("an image twice", vec![open(PROCESS), open(SHARED), open(PROCESS)]),
        ("a parent that isn't there", vec![open(PROCESS), in_parent(PROCESS, 1, 1)]),
        ("an unknown command", vec![open(PROCESS), vec![0x77; MESSAGE_LEN]]),
    ];
    for (lie, messages) in lies {
        let stage = Stage::new();
        let (served, _) = stage.serve("1", None, &[messages.concat(), flush.clone()].concat());
        served.expect_err(lie);
        assert_eq!(stage.names(), [""; 0], "{lie} left something");
    }
    let stage = Stage::new();
    let (served, _) = stage.serve("1", None, &session());
    served.expect("complete");
    let more = [open(PROCESS), in_parent(PROCESS, 18, 2), flush].concat();
    let (served, _) = stage.serve("2", Some("1"), &more);
    assert!(served.expect_err("page 19 isn't there").to_string().contains("parent images"));
    assert_eq!(stage.names(), ["1"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A session with some bytes changed is kept as a whole or not at all, and what is kept can be read.
    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = session();
        let heads = [1, 2].map(|i| i * MESSAGE_LEN);
        for (at, byte) in changes {
            // Most of the bytes are pages, which may be anything.
            let at = heads[at.index(heads.len())] + at.index(MESSAGE_LEN);
            bytes[at] = byte;
        }
        let stage = Stage::new();
        match stage.serve("1", None, &bytes).0 {
            Ok(report) => {
                for name in &report.images {
                    let file = File::open(stage.path("1").join(name)).expect("there");
                    Pagemap::read(file).expect("a pagemap");
                }
            }
            Err(_) => prop_assert_eq!(stage.names(), [""; 0]),
        }
    }
}
