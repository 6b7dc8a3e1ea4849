//! The sending side: files, written piece by piece in any order, to a receiver that gives them their names at the end.

use std::ops::{ControlFlow, Range};
use std::os::fd::BorrowedFd;

use farspace::{Extent, Sink, Transfer};
use farspace_sys::memory::Memory;
use farspace_sys::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use super::connection::{Connection, Push, Trouble};
use super::frame::{self, HEAD, Kind, MAX_EXTENTS, MAX_PACKED, Malformed, Record, Reply};
use super::packer::Packer;
use super::{StreamError, StreamOptions};
use crate::dirty::PageSet;
use crate::origin::Origin;
use crate::place::Held;
use crate::{Error, Result, plan};

const PAGE: u64 = 4096;
/// Bytes of memory in one record: after each, the sender listens whether the receiver has given up.
const RECORD: u64 = 64 << 20;

/// Told the bytes of each step, 0 where nothing moves; `Break` ends the dump.
pub(crate) type Step<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A stream that is being sent.
pub(crate) struct Outgoing {
    connection: Connection,
    peer: String,
    packer: Option<Packer>,
    files: u32,
    bytes: u64,
    syncs: u64,
}

impl Outgoing {
    /// Connects, and learns that a receiver is there and ready.
    pub(crate) fn connect(options: &StreamOptions, kind: Kind) -> Result<Self> {
        let peer = options.address.to_string();
        let error = |source| Error::Stream { peer: peer.clone(), source };
        let socket = options.address.connect().map_err(|e| error(StreamError::Connect(e)))?;
        let connection = Connection::new(socket, options.timeout).map_err(error)?;
        let packer =
            options.compress.map(Packer::new).transpose().map_err(|e| error(StreamError::Broken(e)))?;
        let this = Self { connection, peer: peer.clone(), packer, files: 0, bytes: 0, syncs: 0 };
        this.send(&frame::hello(kind), Push::Now)?;
        match this.connection.reply(&mut || ControlFlow::Continue(())).map_err(|e| this.fail(e))? {
            Reply::Ready => Ok(this),
            _ => Err(error(Malformed::Protocol.into())),
        }
    }

    /// The receiver, as named by the caller.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Begins a file; its number.
    pub(crate) fn open(&mut self, name: &str) -> Result<u32> {
        let file = self.files;
        self.files += 1;
        self.record(Record::Open { file, name_len: name.len() }, name.as_bytes(), Push::Later)?;
        Ok(file)
    }

    /// Writes bytes of this process into a file.
    pub(crate) fn write_at(&mut self, file: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let extents = frame::encode_extents(&[Extent { offset, len: bytes.len() as u64 }]);
        self.record(Record::Pages { file, extents: 1 }, &extents, Push::Later)?;
        self.bytes += bytes.len() as u64;
        self.send(bytes, Push::Later)
    }

    /// Writes many pieces of a buffer of this process into a file.
    pub(crate) fn write_held(&mut self, file: u32, buffer: &[u8], held: &[Held]) -> Result<()> {
        let most = if self.packer.is_some() { MAX_PACKED } else { RECORD };
        let runs: Vec<_> =
            held.iter().map(|held| RemoteIoVec::new(held.at as u64, held.len as u64)).collect();
        let places: Vec<_> =
            held.iter().map(|held| Extent { offset: held.offset, len: held.len as u64 }).collect();
        for (runs, places) in Pieces::new(&runs, &places, most) {
            // Neighbours in the buffer go out together.
            let mut parts: Vec<Range<usize>> = Vec::new();
            for run in &runs {
                let part = run.base.0 as usize..(run.base.0 + run.len) as usize;
                match parts.last_mut() {
                    Some(last) if last.end == part.start => last.end = part.end,
                    _ => parts.push(part),
                }
            }
            if self.packer.is_some() {
                self.pack(file, &places, |into| {
                    parts.into_iter().for_each(|part| into.extend(&buffer[part]));
                })?;
            } else {
                self.head(Record::Pages { file, extents: places.len() }, &places, Push::Later)?;
                for part in parts {
                    self.send(&buffer[part], Push::Later)?;
                }
            }
        }
        Ok(())
    }

    /// Makes holes of places in a file.
    pub(crate) fn punch(&mut self, file: u32, holes: &[Extent]) -> Result<()> {
        for holes in holes.chunks(MAX_EXTENTS) {
            let extents = frame::encode_extents(holes);
            self.record(Record::Holes { file, extents: holes.len() }, &extents, Push::Later)?;
        }
        Ok(())
    }

    /// Says where a file ends.
    pub(crate) fn set_len(&mut self, file: u32, len: u64) -> Result<()> {
        self.record(Record::Length { file, len }, &[], Push::Later)
    }

    /// A file of the parent images, which the receiver has; `None` if it has no such file.
    pub(crate) fn ask(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.record(Record::Ask { name_len: name.len() }, name.as_bytes(), Push::Now)?;
        match self.connection.reply(&mut || ControlFlow::Continue(())).map_err(|e| self.fail(e))? {
            Reply::Absent => Ok(None),
            Reply::Content { len } => {
                let mut bytes = vec![0; len];
                self.connection
                    .receive(&mut bytes, &mut || ControlFlow::Continue(()))
                    .map_err(|e| self.fail(e))?;
                Ok(Some(bytes))
            }
            _ => Err(self.error(Malformed::Protocol.into())),
        }
    }

    /// True if bytes are to be packed.
    pub(crate) fn packs(&self) -> bool {
        self.packer.is_some()
    }

    /// Says that so many bytes for a place in a file come next, by [`Self::fd`].
    pub(crate) fn announce(&mut self, file: u32, offset: u64, len: u64) -> Result<()> {
        self.head(Record::Pages { file, extents: 1 }, &[Extent { offset, len }], Push::Later)
    }

    /// The socket.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.connection.fd()
    }

    /// Packs at most [`MAX_PACKED`] bytes for a place in a file.
    pub(crate) fn packed_at(&mut self, file: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = [Extent { offset, len: bytes.len() as u64 }];
        self.pack(file, &place, |into| into.extend(bytes))
    }

    /// Has the receiver forget a file.
    pub(crate) fn discard(&mut self, file: u32) -> Result<()> {
        self.record(Record::Discard { file }, &[], Push::Later)
    }

    /// Moves runs of pages to as many places in a file. Returns the pages that can't be had: zeros went out for them.
    pub(crate) fn pages(
        &mut self,
        file: u32,
        origin: &mut Origin<'_>,
        runs: &[RemoteIoVec],
        places: &[Extent],
        step: Step<'_>,
    ) -> Result<PageSet> {
        let most = if self.packer.is_some() { MAX_PACKED } else { RECORD };
        let mut missing = PageSet::default();
        for (runs, places) in Pieces::new(runs, places, most) {
            if self.packer.is_some() {
                self.packed(file, &origin.memory, &runs, &places, &mut missing, step)?;
            } else {
                self.spliced(file, origin, &runs, &places, &mut missing, step)?;
            }
        }
        Ok(missing)
    }

    /// Returns once the receiver has taken everything that was sent.
    ///
    /// Until then pages that were spliced are still those of the target, also in the queue of a receiver on this host: a
    /// write by the target would show.
    pub(crate) fn settle(&mut self, step: Step<'_>) -> Result<()> {
        self.syncs += 1;
        let number = self.syncs;
        self.record(Record::Sync { number }, &[], Push::Now)?;
        match self.connection.reply(&mut || step(0)).map_err(|e| self.fail(e))? {
            Reply::Synced { number: answered } if answered == number => Ok(()),
            _ => Err(self.error(Malformed::Protocol.into())),
        }
    }

    /// Ends the stream; returns once the receiver has given everything its name.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.record(Record::End { files: self.files, bytes: self.bytes }, &[], Push::Now)?;
        match self.connection.reply(&mut || ControlFlow::Continue(())).map_err(|e| self.fail(e))? {
            Reply::Done { bytes } if bytes == self.bytes => Ok(()),
            Reply::Done { .. } => Err(self.error(Malformed::Totals.into())),
            _ => Err(self.error(Malformed::Protocol.into())),
        }
    }

    /// What an error of a splice into the socket is.
    pub(crate) fn broken(&self, errno: Errno) -> Error {
        self.error(self.connection.explain(StreamError::of(errno)))
    }

    fn spliced(
        &mut self,
        file: u32,
        origin: &mut Origin<'_>,
        runs: &[RemoteIoVec],
        places: &[Extent],
        missing: &mut PageSet,
        step: Step<'_>,
    ) -> Result<()> {
        self.head(Record::Pages { file, extents: places.len() }, places, Push::Later)?;
        let mut left = runs.to_vec();
        // What was announced is sent whatever happens, or nothing after it would make sense.
        while !left.is_empty() {
            let Some((stuck, _)) = self.splice(origin, &left, step)?.stopped else { break };
            let page = stuck.0 & !(PAGE - 1);
            // The first part of the page may have gone out before it became unreadable.
            let len = (page + PAGE - stuck.0).min(plan::total(&plan::after(&left, stuck)));
            let mut bytes = [0; PAGE as usize];
            let bytes = &mut bytes[..len as usize];
            read_or_zeros(&origin.memory, stuck, bytes, missing);
            self.send(bytes, Push::Later)?;
            self.step(step, len)?;
            left = plan::after(&left, RemoteAddr(stuck.0 + len));
        }
        Ok(())
    }

    fn splice(&mut self, origin: &mut Origin<'_>, runs: &[RemoteIoVec], step: Step<'_>) -> Result<Transfer> {
        let timeout = self.connection.timeout();
        let (mut moved, mut stalled) = (std::time::Instant::now(), false);
        let mut sink = Sink::stream(self.connection.fd());
        let transfer = origin.splice(runs, &mut sink, &mut |bytes| {
            if bytes > 0 {
                moved = std::time::Instant::now();
            } else if moved.elapsed() > timeout {
                stalled = true;
                return ControlFlow::Break(());
            }
            step(bytes)
        });
        match transfer {
            Ok(transfer) => Ok(transfer),
            Err(_) if stalled => Err(self.error(StreamError::Stalled(timeout))),
            Err(error) => Err(error.into()),
        }
    }

    fn packed(
        &mut self,
        file: u32,
        memory: &Memory,
        runs: &[RemoteIoVec],
        places: &[Extent],
        missing: &mut PageSet,
        step: Step<'_>,
    ) -> Result<()> {
        self.pack(file, places, |bytes| {
            for run in runs {
                let at = bytes.len();
                bytes.resize(at + run.len as usize, 0);
                read_or_zeros(memory, run.base, &mut bytes[at..], missing);
            }
        })?;
        self.step(step, plan::total(runs))
    }

    /// Packs what `fill` makes.
    fn pack(&mut self, file: u32, places: &[Extent], fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let Some(mut packer) = self.packer.take() else { return Ok(()) };
        let (packed, ()) = packer.pack(fill);
        let sent = packed.map_err(|e| self.error(StreamError::Broken(e))).and_then(|packed| {
            self.head(Record::Packed { file, extents: places.len() }, places, Push::Later)?;
            self.send(&(packed.len() as u64).to_le_bytes(), Push::Later)?;
            self.send(packed, Push::Later)
        });
        self.packer = Some(packer);
        sent
    }

    fn step(&self, step: Step<'_>, bytes: u64) -> Result<()> {
        if step(bytes).is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// The head of a record with bytes, and its places.
    fn head(&mut self, record: Record, places: &[Extent], push: Push) -> Result<()> {
        debug_assert!((1..=MAX_EXTENTS).contains(&places.len()));
        self.bytes += places.iter().map(|place| place.len).sum::<u64>();
        self.record(record, &frame::encode_extents(places), push)
    }

    fn record(&mut self, record: Record, rest: &[u8], push: Push) -> Result<()> {
        self.connection.check(&mut || ControlFlow::Continue(())).map_err(|e| self.fail(e))?;
        let mut bytes = Vec::with_capacity(HEAD + rest.len());
        bytes.extend(record.encode());
        bytes.extend(rest);
        self.send(&bytes, push)
    }

    fn send(&self, bytes: &[u8], push: Push) -> Result<()> {
        self.connection.send(bytes, push, &mut || ControlFlow::Continue(())).map_err(
            |trouble| match trouble {
                Trouble::Stream(StreamError::Broken(e)) => {
                    self.error(self.connection.explain(StreamError::Broken(e)))
                }
                trouble => self.fail(trouble),
            },
        )
    }

    fn fail(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Interrupted => Error::Interrupted,
            Trouble::Stream(source) => self.error(source),
        }
    }

    pub(crate) fn error(&self, source: StreamError) -> Error {
        Error::Stream { peer: self.peer.clone(), source }
    }

    /// Tells the receiver why there is no more, as far as it still listens: not in the middle of a record.
    pub(crate) fn give_up(&self, why: &str) {
        let text: String = why.chars().take(frame::MAX_TEXT / 4).collect();
        let text = if text.is_empty() { "no reason given".to_owned() } else { text };
        self.connection.part(&Record::Fail { text_len: text.len() }.encode(), text.as_bytes());
    }
}

/// Reads by copy what may resist; notes the pages that can't be had and stay zeros.
fn read_or_zeros(memory: &Memory, from: RemoteAddr, bytes: &mut [u8], missing: &mut PageSet) {
    let mut done = 0;
    while done < bytes.len() {
        let at = RemoteAddr(from.0 + done as u64);
        match memory.read(at, &mut bytes[done..]) {
            Ok(n) if n > 0 => done += n,
            _ => {
                let page = ((PAGE - at.0 % PAGE) as usize).min(bytes.len() - done);
                missing.insert(at.0..at.0 + page as u64);
                done += page;
            }
        }
    }
}

/// Runs and their places, cut into records.
struct Pieces<'a> {
    runs: &'a [RemoteIoVec],
    places: &'a [Extent],
    /// Bytes of the first run that are in a record already.
    skip: u64,
    most: u64,
}

impl<'a> Pieces<'a> {
    fn new(runs: &'a [RemoteIoVec], places: &'a [Extent], most: u64) -> Self {
        Self { runs, places, skip: 0, most }
    }
}

impl Iterator for Pieces<'_> {
    type Item = (Vec<RemoteIoVec>, Vec<Extent>);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut runs, mut places, mut room) = (Vec::new(), Vec::new(), self.most);
        while let (Some(run), Some(place)) = (self.runs.first(), self.places.first()) {
            let len = (run.len.min(place.len) - self.skip).min(room);
            if len > 0 {
                runs.push(RemoteIoVec::new(run.base.0 + self.skip, len));
                places.push(Extent { offset: place.offset + self.skip, len });
            }
            room -= len;
            self.skip += len;
            if self.skip < run.len.min(place.len) {
                break;
            }
            self.skip = 0;
            (self.runs, self.places) = (&self.runs[1..], &self.places[1..]);
            if room == 0 || runs.len() == MAX_EXTENTS {
                break;
            }
        }
        (!runs.is_empty()).then_some((runs, places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_it_in_order() {
        let runs: Vec<_> = (0..3000u64).map(|i| RemoteIoVec::new(i << 32, 4096 * (i % 7))).collect();
        let places: Vec<_> = runs.iter().map(|run| Extent { offset: run.base.0 + 1, len: run.len }).collect();
        let (mut bytes, mut last) = (0, 0);
        for (runs, places) in Pieces::new(&runs, &places, 8192) {
            let total = plan::total(&runs);
            assert!(runs.len() == places.len() && (1..=8192).contains(&total));
            for (run, place) in runs.iter().zip(&places) {
                assert!(place.offset == run.base.0 + 1 && place.len == run.len && run.base.0 >= last);
                last = run.base.0 + run.len;
            }
            bytes += total;
        }
        assert_eq!(bytes, plan::total(&runs));
    }
}
