//! What a receiver does with the records: the files of one stream, none of them under its final name.

use std::ops::ControlFlow;

use farspace::Extent;
use farspace_image::criu::{INVENTORY, ImageId};

use super::StreamError;
use super::connection::{Connection, Push, Trouble};
use super::frame::{self, EXTENT, HEAD, Kind, MAX_FILES, MAX_PACKED, Malformed, Record, Reply};
use super::packer::{Unpacker, most_packed};
use super::pump::{Leak, Pump};
use super::receiver::Store;
use crate::{Error, Result};

/// Told the bytes of each step, 0 where nothing moves; `Break` ends it.
pub(crate) type Step<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A stream that is being received.
pub(crate) struct Incoming<'a> {
    connection: &'a Connection,
    store: &'a mut Store,
    pump: Option<Pump>,
    unpacker: Option<Unpacker>,
    /// Bytes of all extents so far.
    bytes: u64,
    step: Step<'a>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(connection: &'a Connection, store: &'a mut Store, step: Step<'a>) -> Self {
        Self { connection, store, pump: None, unpacker: None, bytes: 0, step }
    }

    /// Takes records to the end, and gives the files their names; bytes of all extents.
    pub(crate) fn run(mut self) -> Result<u64, Failure> {
        loop {
            let mut head = [0; HEAD];
            self.receive(&mut head)?;
            match Record::decode(&head)? {
                Record::Open { file, name_len } => {
                    let mut name = vec![0; name_len];
                    self.receive(&mut name)?;
                    let name = frame::check_name(&name)?;
                    let wanted = self.store.files();
                    let most = if self.store.kind() == Kind::File { 1 } else { MAX_FILES };
                    if file != wanted || wanted >= most {
                        return Err(Malformed::File(file).into());
                    }
                    self.store.open(name)?;
                }
                Record::Pages { file, extents } => {
                    let (extents, _) = self.extents(extents, u64::MAX)?;
                    for extent in extents {
                        self.pages(file, extent)?;
                    }
                }
                Record::Packed { file, extents } => self.packed(file, extents)?,
                Record::Holes { file, extents } => {
                    for hole in self.extents(extents, u64::MAX)?.0 {
                        self.store.punch(file, hole)?;
                        self.step(0)?;
                    }
                }
                Record::Length { file, len } => self.store.set_len(file, len)?,
                Record::Ask { name_len } => {
                    let mut name = vec![0; name_len];
                    self.receive(&mut name)?;
                    self.content(frame::check_name(&name)?)?;
                }
                Record::Discard { file } => self.store.discard(file)?,
                Record::Sync { number } => self.answer(Reply::Synced { number })?,
                Record::End { files, bytes } => {
                    if (files, bytes) != (self.store.files(), self.bytes) || files == 0 {
                        return Err(Malformed::Totals.into());
                    }
                    return Ok(self.bytes);
                }
                Record::Fail { text_len } => {
                    let mut text = vec![0; text_len];
                    self.receive(&mut text)?;
                    return Err(Failure::Trouble(StreamError::Peer(frame::readable(&text)).into()));
                }
            }
        }
    }

    /// Answers with a file of the parent images: only what a sender needs to know what they have.
    fn content(&mut self, name: &str) -> Result<(), Failure> {
        let is_asked_for = name == INVENTORY || ImageId::from_pagemap_name(name).is_some();
        match self.store.parent_file(name)?.filter(|_| is_asked_for) {
            None => self.answer(Reply::Absent),
            Some(bytes) => {
                self.answer(Reply::Content { len: bytes.len() })?;
                let step = &mut self.step;
                Ok(self.connection.send(&bytes, Push::Now, &mut || step(0))?)
            }
        }
    }

    fn extents(&mut self, count: usize, max_bytes: u64) -> Result<(Vec<Extent>, u64), Failure> {
        let mut bytes = vec![0; count * EXTENT];
        self.receive(&mut bytes)?;
        Ok(frame::decode_extents(&bytes, max_bytes)?)
    }

    fn pages(&mut self, file: u32, extent: Extent) -> Result<(), Failure> {
        let mut pump = match self.pump.take() {
            Some(pump) => pump,
            None => Pump::new()?,
        };
        let to = self.store.file(file)?;
        pump.run(self.connection, to, extent.offset, extent.len, self.step).map_err(|leak| match leak {
            Leak::Trouble(trouble) => Failure::Trouble(trouble),
            Leak::File(error) => self.store.error(file, error).into(),
        })?;
        self.bytes += extent.len;
        self.pump = Some(pump);
        Ok(())
    }

    fn packed(&mut self, file: u32, count: usize) -> Result<(), Failure> {
        let (extents, total) = self.extents(count, MAX_PACKED)?;
        let mut len = [0; 8];
        self.receive(&mut len)?;
        let len = u64::from_le_bytes(len);
        if len > most_packed() {
            return Err(Malformed::Length(len).into());
        }
        let mut packed = vec![0; len as usize];
        self.receive(&mut packed)?;
        let mut unpacker = match self.unpacker.take() {
            Some(unpacker) => unpacker,
            None => Unpacker::new().map_err(StreamError::Broken)?,
        };
        let mut plain = unpacker.unpack(&packed, total as usize).ok_or(Malformed::Packed)?;
        for extent in extents {
            let (bytes, rest) = plain.split_at(extent.len as usize);
            self.store.write(file, bytes, extent.offset)?;
            plain = rest;
        }
        self.unpacker = Some(unpacker);
        self.bytes += total;
        self.step(total)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        let step = &mut self.step;
        Ok(self.connection.receive(buffer, &mut || step(0))?)
    }

    fn answer(&mut self, reply: Reply) -> Result<(), Failure> {
        let step = &mut self.step;
        Ok(self.connection.send(&reply.encode(), Push::Now, &mut || step(0))?)
    }

    fn step(&mut self, bytes: u64) -> Result<(), Failure> {
        if (self.step)(bytes).is_break() { Err(Failure::Trouble(Trouble::Interrupted)) } else { Ok(()) }
    }
}

/// Why a stream was not received.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The other side, or the caller.
    Trouble(Trouble),
    /// The files here.
    Here(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Trouble(error.into())
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Trouble(error.into())
    }
}
