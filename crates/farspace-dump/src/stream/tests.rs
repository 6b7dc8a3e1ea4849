//! Receivers against senders that break off, lie, or are no senders at all.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use farspace::Extent;
use proptest::prelude::*;

use super::frame::{HEAD, Kind, Record, Reply, encode_extents, hello};
use super::packer::Packer;
use super::{Address, ReceiveOptions, ReceiveReport, Receiver, StreamError};
use crate::{Error, Result};

/// Short enough for a test that has to wait for it; what is to come before must be there already.
const SOON: Duration = Duration::from_millis(300);
/// Where nobody has to wait for it, and everybody may be without a CPU for a while.
const LONG: Duration = Duration::from_secs(60);
/// Looks, 50 ms apart, of a receiver that nobody comes to any more.
const IDLE_LOOKS: u32 = 40;

/// A directory with a receiver's socket, and a name for what it receives.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// Receives what `send` does with a connection; both results.
    fn receive<T: Send>(&self, send: impl FnOnce(&Path) -> T + Send) -> (Result<ReceiveReport>, T) {
        self.receive_within(LONG, |socket, begun| {
            drop(begun);
            send(socket)
        })
    }

    /// The same with so much patience, from when `send` drops the channel that it is given.
    fn receive_within<T: Send>(
        &self,
        timeout: Duration,
        send: impl FnOnce(&Path, mpsc::Sender<()>) -> T + Send,
    ) -> (Result<ReceiveReport>, T) {
        let socket = self.socket();
        let receiver = Receiver::listen(&Address::Unix(socket.clone())).expect("listens");
        let options = ReceiveOptions { timeout, ..ReceiveOptions::default() };
        let is_sent = AtomicBool::new(false);
        thread::scope(|scope| {
            let (begun, has_begun) = mpsc::channel();
            let is_sent = &is_sent;
            let sender = scope.spawn(move || {
                let sent = send(&socket, begun);
                is_sent.store(true, Ordering::SeqCst);
                sent
            });
            let _ = has_begun.recv();
            let mut looks = 0;
            let go_on = &mut |_| {
                looks += u32::from(is_sent.load(Ordering::SeqCst));
                if looks > IDLE_LOOKS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let received = receiver.receive(&self.output(), None, &options, go_on);
            drop(receiver);
            (received, sender.join().expect("no panic"))
        })
    }

    /// Nothing is there, hidden names included.
    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.directory.path()).expect("readable").next().is_none()
    }
}

/// Sends bytes and then closes; what the receiver had answered by then.
fn send(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    let mut answer = Vec::new();
    // A receiver that gives up in the middle takes no more.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn pages(file: u32, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let extents = encode_extents(&[Extent { offset, len: bytes.len() as u64 }]);
    [&Record::Pages { file, extents: 1 }.encode()[..], &extents, bytes].concat()
}

fn packed(file: u32, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut packer = Packer::new(1).expect("a level");
    let (packed, ()) = packer.pack(|into| into.extend(bytes));
    let packed = packed.expect("room");
    let extents = encode_extents(&[Extent { offset, len: bytes.len() as u64 }]);
    let len = (packed.len() as u64).to_le_bytes();
    [&Record::Packed { file, extents: 1 }.encode()[..], &extents, &len, packed].concat()
}

fn holes(file: u32, offset: u64, len: u64) -> Vec<u8> {
    let extents = encode_extents(&[Extent { offset, len }]);
    [&Record::Holes { file, extents: 1 }.encode()[..], &extents].concat()
}

fn open(file: u32, name: &str) -> Vec<u8> {
    [&Record::Open { file, name_len: name.len() }.encode()[..], name.as_bytes()].concat()
}

/// A stream with a record of each kind, and where each begins.
fn stream(kind: Kind) -> (Vec<u8>, Vec<usize>) {
    let mut records =
        vec![hello(kind).to_vec(), open(0, "core.1"), pages(0, 0, b"head"), pages(0, 8, b"tail")];
    records.push(packed(0, 4, b"body"));
    // What is there is replaced, and what isn't to be there any more is no longer.
    records.extend([pages(0, 0, b"HE"), pages(0, 20, &[7; 40]), packed(0, 9, b"A"), holes(0, 20, 40)]);
    records.push(Record::Length { file: 0, len: 100 }.encode().to_vec());
    records.push(Record::Sync { number: 7 }.encode().to_vec());
    let mut files = 1;
    let mut bytes = 12 + 2 + 40 + 1;
    if kind == Kind::Directory {
        records.extend([open(1, "core.2"), pages(1, 0, b"more"), open(2, "core.3"), pages(2, 0, b"gone")]);
        records.push(Record::Discard { file: 2 }.encode().to_vec());
        (files, bytes) = (3, bytes + 8);
    }
    records.push(Record::End { files, bytes }.encode().to_vec());
    let begins =
        records.iter().scan(0, |at, record| Some(std::mem::replace(at, *at + record.len()))).collect();
    (records.concat(), begins)
}

#[test]
fn a_file_arrives() {
    let stage = Stage::new();
    let (received, answer) = stage.receive(|socket| send(socket, &stream(Kind::File).0));
    let report = received.expect("complete");
    assert_eq!((report.files, report.bytes), (vec!["core.1".to_owned()], 55));
    let bytes = std::fs::read(stage.output()).expect("there");
    assert!(bytes.len() == 100 && bytes.starts_with(b"HEadbodytAil\0"), "{bytes:?}");
    assert!(bytes[12..].iter().all(|byte| *byte == 0), "{bytes:?}");
    let replies = [Reply::Ready, Reply::Synced { number: 7 }, Reply::Done { bytes: 55 }];
    assert_eq!(answer, replies.map(Reply::encode).concat());
}

#[test]
fn a_directory_arrives() {
    let stage = Stage::new();
    let (received, _) = stage.receive(|socket| send(socket, &stream(Kind::Directory).0));
    let report = received.expect("complete");
    assert_eq!(report.files, ["core.1", "core.2"]);
    assert_eq!(std::fs::read(stage.output().join("core.2")).expect("there"), b"more");
    assert!(!stage.output().join("core.3").exists());
}

#[test]
fn a_file_goes_into_a_directory_that_exists() {
    let stage = Stage::new();
    std::fs::create_dir(stage.output()).expect("made");
    let (received, _) = stage.receive(|socket| send(socket, &stream(Kind::File).0));
    assert_eq!(received.expect("complete").path, stage.output().join("core.1"));
}

/// Cut after each byte: nothing is left, and the next one is received.
#[test]
fn a_cut_anywhere_leaves_nothing() {
    for kind in [Kind::File, Kind::Directory] {
        let (bytes, begins) = stream(kind);
        for cut in HEAD..bytes.len() {
            let stage = Stage::new();
            let (received, _) = stage.receive(|socket| send(socket, &bytes[..cut]));
            let record = begins.partition_point(|begin| *begin <= cut);
            match received {
                Err(Error::Stream { source: StreamError::Closed, .. }) => {}
                other => panic!("{kind:?} cut after {cut} bytes, in record {record}: {other:?}"),
            }
            assert!(stage.is_empty(), "{kind:?} cut after {cut} bytes left something");
        }
        let stage = Stage::new();
        let (received, _) = stage.receive(|socket| send(socket, &bytes));
        received.expect("complete");
    }
}

/// Silent after each record: over in time, nothing is left.
#[test]
fn a_stall_after_any_record_leaves_nothing() {
    let (bytes, begins) = stream(Kind::Directory);
    for cut in begins.into_iter().skip(1) {
        let stage = Stage::new();
        let (received, ()) = stage.receive_within(SOON, |socket, begun| {
            let mut stream = UnixStream::connect(socket).expect("somebody listens");
            stream.write_all(&bytes[..cut + 3]).expect("taken");
            drop(begun);
            // Until the receiver has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(
            matches!(received, Err(Error::Stream { source: StreamError::Stalled(_), .. })),
            "{received:?}"
        );
        assert!(stage.is_empty());
    }
}

/// A byte now and then is no progress.
#[test]
fn a_trickle_is_a_stall() {
    let stage = Stage::new();
    let (received, sent) = stage.receive_within(SOON, |socket, begun| {
        let mut stream = UnixStream::connect(socket).expect("somebody listens");
        let (bytes, begins) = stream_of_much();
        stream.write_all(&bytes[..begins]).expect("taken");
        drop(begun);
        let mut sent = 0;
        for byte in &bytes[begins..] {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            sent += 1;
            thread::sleep(SOON / 4);
        }
        sent
    });
    assert!(matches!(received, Err(Error::Stream { source: StreamError::Stalled(_), .. })), "{received:?}");
    // Some four are sent in that time, and 255 is all that there are.
    assert!(stage.is_empty() && sent < 200, "{sent} bytes were sent");
}

fn stream_of_much() -> (Vec<u8>, usize) {
    let (bytes, begins) = stream(Kind::File);
    let name =
        [&bytes[..begins[1]], &Record::Open { file: 0, name_len: 255 }.encode(), &[b'a'; 255]].concat();
    (name, begins[1] + HEAD)
}

/// Whoever isn't a sender is turned away, and the next one is served.
#[test]
fn strangers_are_turned_away() {
    let mut other_version = hello(Kind::File);
    other_version[8] = 99;
    let strangers: [&[u8]; 5] =
        [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[0; 4096], b"FARSPACE", &other_version];
    let stage = Stage::new();
    // The silent one takes all that time.
    let (received, ()) = stage.receive_within(Duration::from_secs(4), |socket, begun| {
        drop(begun);
        for stranger in strangers {
            send(socket, stranger);
        }
        // One that says nothing, and doesn't go either.
        let silent = UnixStream::connect(socket).expect("somebody listens");
        send(socket, &stream(Kind::File).0);
        drop(silent);
    });
    let report = received.expect("the last one");
    assert_eq!(report.turned_away.len(), strangers.len() + 1, "{:?}", report.turned_away);
    assert!(report.turned_away.iter().any(|who| who.contains("version 99")), "{:?}", report.turned_away);
}

/// Records that must be refused, after a good beginning.
#[test]
fn lies_are_refused() {
    let good = [hello(Kind::Directory).to_vec(), open(0, "core.1")].concat();
    let record = |record: Record| record.encode().to_vec();
    let many = |offset: u64, len: u64| {
        let extents = encode_extents(&[Extent { offset, len }]);
        [&Record::Pages { file: 0, extents: 1 }.encode()[..], &extents].concat()
    };
    let bomb = {
        let mut packer = Packer::new(1).expect("a level");
        let (packed, ()) = packer.pack(|into| into.resize(1 << 20, 0));
        let extents = encode_extents(&[Extent { offset: 0, len: 4096 }]);
        let packed = packed.expect("room");
        let len = (packed.len() as u64).to_le_bytes();
        [&Record::Packed { file: 0, extents: 1 }.encode()[..], &extents, &len, packed].concat()
    };
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("a path", open(1, "../core.2")),
        ("a hidden name", open(1, ".core.2")),
        ("the same name", open(1, "core.1")),
        ("a number out of turn", open(7, "core.2")),
        ("a file that isn't open", pages(1, 0, b"x")),
        (
            "a length beyond all addresses",
            record(Record::Length { file: 0, len: 1 << 48 })[..8].iter().copied().chain([0xff; 8]).collect(),
        ),
        ("a place beyond all addresses", many(1 << 48, 1)),
        ("a length that overflows", many(4096, u64::MAX)),
        ("nothing", many(0, 0)),
        ("a hole in a file that isn't open", holes(1, 0, 1)),
        ("a hole beyond all addresses", holes(0, 1 << 48, 1)),
        ("a hole of nothing", holes(0, 0, 0)),
        ("too many holes", record(Record::Holes { file: 0, extents: 1025 })),
        ("no extents", record(Record::Pages { file: 0, extents: 0 })),
        ("too many extents", record(Record::Pages { file: 0, extents: 1025 })),
        (
            "too much in a packed record",
            [
                &Record::Packed { file: 0, extents: 1 }.encode()[..],
                &encode_extents(&[Extent { offset: 0, len: 2 << 20 }]),
            ]
            .concat(),
        ),
        (
            "a packed length that is huge",
            [
                &Record::Packed { file: 0, extents: 1 }.encode()[..],
                &encode_extents(&[Extent { offset: 0, len: 1 }]),
                &[0xff; 8],
            ]
            .concat(),
        ),
        ("more than was announced", bomb),
        ("a discard of what isn't there", record(Record::Discard { file: 3 })),
        ("wrong totals", record(Record::End { files: 1, bytes: 1 })),
        ("wrong files", record(Record::End { files: 2, bytes: 0 })),
        ("an unknown record", vec![0x77; HEAD]),
        ("a hello", hello(Kind::File).to_vec()),
    ];
    for (lie, bytes) in lies {
        let stage = Stage::new();
        let (received, answer) = stage.receive(|socket| send(socket, &[good.clone(), bytes].concat()));
        let error = received.expect_err(lie);
        let told = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            matches!(&error, Error::Stream { source: StreamError::Malformed(_), .. } | Error::Output { .. }),
            "{lie}: {error}"
        );
        // The sender learns why.
        assert!(
            told.contains(&error.to_string().chars().take(40).collect::<String>()[..10]),
            "{lie}: {told}"
        );
        assert!(stage.is_empty(), "{lie} left something");
    }
}

#[test]
fn a_sender_that_gives_up_is_quoted() {
    let stage = Stage::new();
    let why = b"pid 1 ended\x1b[31m";
    let bytes =
        [hello(Kind::File).to_vec(), Record::Fail { text_len: why.len() }.encode().to_vec(), why.to_vec()]
            .concat();
    let (received, _) = stage.receive(|socket| send(socket, &bytes));
    let error = received.expect_err("it gave up").to_string();
    assert!(error.contains("pid 1 ended") && !error.contains('\x1b'), "{error}");
    assert!(stage.is_empty());
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let stage = Stage::new();
    std::fs::write(stage.output(), "precious").expect("written");
    let (received, answer) = stage.receive(|socket| send(socket, &stream(Kind::File).0));
    assert!(matches!(received, Err(Error::Exists { .. })));
    assert!(String::from_utf8_lossy(&answer).contains("exists"));
    assert_eq!(std::fs::read(stage.output()).expect("there"), b"precious");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A stream with some bytes changed is received as a whole or not at all.
    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), directory: bool) {
        let kind = if directory { Kind::Directory } else { Kind::File };
        let (mut bytes, _) = stream(kind);
        // The hello decides whether there is anything to receive.
        for (at, byte) in changes {
            let at = HEAD + at.index(bytes.len() - HEAD);
            bytes[at] = byte;
        }
        let stage = Stage::new();
        let (received, _) = stage.receive(|socket| send(socket, &bytes));
        match received {
            Ok(report) => prop_assert!(report.path.exists() && report.path.starts_with(stage.directory.path())),
            Err(Error::Stream { source: StreamError::Stalled(_), .. }) => prop_assert!(false, "the end was missed"),
            Err(_) => prop_assert!(stage.is_empty()),
        }
    }
}
