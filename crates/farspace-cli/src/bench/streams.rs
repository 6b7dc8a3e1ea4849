//! A dump streamed over TCP loopback into a file, against process_vm_readv + send and a receiver that copies it there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use farspace_abi::RemoteIoVec;
use farspace_dump::stream::{Address, ReceiveOptions, Receiver, StreamOptions};
use farspace_dump::{Destination, DumpOptions, Level};

use super::Scale;
use super::report::{Report, Unit};
use crate::demo::baseline;
use crate::demo::client::{Life, Pages, SampleTarget};
use crate::interrupt;
use crate::units::gb_per_s;

/// Adds the pair of rows.
pub(super) fn measure(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let target = SampleTarget::start(scale.target_bytes, 0, Pages::Default, Life::Asleep)?;
    let ranges = [RemoteIoVec::new(target.hello.static_base, target.hello.static_len)];
    let path = PathBuf::from(format!("/dev/shm/farspace-bench-stream-{}", std::process::id()));
    interrupt::remove_at_exit(path.clone());
    let mut pairs = Vec::new();
    for pair in 0..scale.pairs {
        let ours = || rate(&path, || streamed(target.pid(), &path));
        let theirs = || rate(&path, || copied(target.pid(), &ranges, &path));
        // Who goes first alternates, so that neither always finds the caches warm.
        pairs.push(if pair % 2 == 0 {
            let first = ours()?;
            (first, theirs()?)
        } else {
            let first = theirs()?;
            (ours()?, first)
        });
    }
    report.add_pairs("stream-tcp", "readv-send-tcp", Unit::GbPerS, &pairs);
    target.finish()
}

/// GB/s until the receiver has everything in its file, which is removed.
fn rate(path: &Path, transfer: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    interrupt::check()?;
    let start = Instant::now();
    let bytes = transfer()?;
    let took = start.elapsed();
    std::fs::remove_file(path).context("remove what was received")?;
    Ok(gb_per_s(bytes, took))
}

/// `farspace dump --level fuzzy -o tcp:` and `farspace receive`: attaching, and all of the protocol.
fn streamed(pid: i32, path: &Path) -> anyhow::Result<u64> {
    let receiver = Receiver::listen(&Address::Tcp("127.0.0.1:0".to_owned()))?;
    let to = Destination::Stream(StreamOptions::to(receiver.address().clone()));
    let options = DumpOptions { level: Level::Fuzzy, ..DumpOptions::default() };
    thread::scope(|scope| {
        let received = scope.spawn(move || {
            receiver.receive(path, None, &ReceiveOptions::default(), &mut |_| interrupt::flow())
        });
        let sent = farspace_dump::dump(pid, &to, &options, &mut |_| interrupt::flow());
        received.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(sent?.bytes_written)
    })
}

/// The usual way on both sides.
fn copied(pid: i32, ranges: &[RemoteIoVec], path: &Path) -> anyhow::Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let received = scope.spawn(move || -> std::io::Result<()> {
            let (mut from, _) = listener.accept()?;
            let mut to = File::create(path)?;
            let mut buffer = vec![0; baseline::BUFFER_BYTES];
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    len => to.write_all(&buffer[..len])?,
                }
            }
        });
        let mut socket = TcpStream::connect(address)?;
        let bytes = baseline::copy(pid, ranges, &mut socket)?;
        drop(socket);
        received.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(bytes)
    })
}
