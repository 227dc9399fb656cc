//! A small file of the kernel that is read again and again: its descriptor stays open, which spares four fifths of each look.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::descriptor::lift;

#[derive(Debug)]
pub(super) struct Kept(File);

impl Kept {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(lift(File::open(path)?.into()).into()))
    }

    /// What it says now, or its beginning where that is longer than `buffer`. Such files are made anew for each reading from 0.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a str> {
        let length = self.0.read_at(buffer, 0)?;
        let text = buffer.get(..length).unwrap_or_default();
        str::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }
}
