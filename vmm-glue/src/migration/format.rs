//! The file of a device's state.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 8 | `vfiostat` |
//! | 4 | version of this format, 1 |
//! | 2, 2 | vendor and device identifier, all ones of a device without |
//! | 4, n | length of a piece of the device's state, at most 1 MiB, and the piece; any number of these |
//! | 4 | 0: there are no more pieces |
//! | 8 | bytes of all pieces |
//! | 32 | SHA-256 of everything before |

use crate::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::io::{Read, Write};

const MAGIC: [u8; 8] = *b"vfiostat";
const VERSION: u32 = 1;
/// The largest piece in bytes.
pub const PIECE: usize = 1 << 20;

/// What a device is; a state is loaded only into one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
}

/// Writes a state piece by piece.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    digest: Sha256,
    total: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn new(to: W, kind: Kind) -> Result<Self> {
        let mut writer = Self {
            to,
            digest: Sha256::new(),
            total: 0,
        };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&kind.vendor.to_le_bytes())?;
        writer.put(&kind.device.to_le_bytes())?;
        Ok(writer)
    }

    /// Writes a part of the state.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn write(&mut self, state: &[u8]) -> Result<()> {
        for piece in state.chunks(PIECE) {
            self.put(&u32::try_from(piece.len()).unwrap_or_default().to_le_bytes())?;
            self.put(piece)?;
            self.total += piece.len() as u64;
        }
        Ok(())
    }

    /// Bytes of the state so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Ends the file, and gives back what it was written to.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn finish(mut self) -> Result<W> {
        self.put(&0_u32.to_le_bytes())?;
        let total = self.total.to_le_bytes();
        self.put(&total)?;
        let digest = self.digest.clone().finalize();
        self.to.write_all(&digest).map_err(unwritten)?;
        self.to.flush().map_err(unwritten)?;
        Ok(self.to)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.to.write_all(bytes).map_err(unwritten)
    }
}

/// Reads a file from its beginning to its end, and gives its pieces to `take`, of which none is to be believed before this has returned. Returns what device
/// it is of, and how many bytes its state has.
///
/// # Errors
///
/// [`ErrorKind::Malformed`] for what is no such file, is not whole, or was changed; those of reading, and of `take`.
pub fn read(from: &mut dyn Read, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<(Kind, u64)> {
    let mut reader = Reader {
        from,
        digest: Sha256::new(),
    };
    if reader.bytes::<8>()? != MAGIC {
        return Err(malformed("not the state of a device"));
    }
    let version = u32::from_le_bytes(reader.bytes()?);
    if version != VERSION {
        return Err(malformed(format!(
            "version {version} of the format; this program reads version {VERSION}"
        )));
    }
    let kind = Kind {
        vendor: u16::from_le_bytes(reader.bytes()?),
        device: u16::from_le_bytes(reader.bytes()?),
    };
    let mut total = 0;
    let mut piece = Vec::new();
    loop {
        let len = usize::try_from(u32::from_le_bytes(reader.bytes()?)).unwrap_or(usize::MAX);
        if len == 0 {
            break;
        }
        if len > PIECE {
            return Err(malformed("a piece that is too long"));
        }
        piece.resize(len, 0);
        reader.fill(&mut piece)?;
        total += len as u64;
        take(&piece)?;
    }
    if u64::from_le_bytes(reader.bytes()?) != total {
        return Err(malformed("another number of bytes than it says"));
    }
    let computed = reader.digest.clone().finalize();
    let digest: [u8; 32] = reader.bytes()?;
    if digest.as_slice() != computed.as_slice() {
        return Err(malformed("the checksum is another: the file was changed"));
    }
    Ok((kind, total))
}

struct Reader<'a> {
    from: &'a mut dyn Read,
    digest: Sha256,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, to: &mut [u8]) -> Result<()> {
        self.from.read_exact(to).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => malformed("the file ends too early"),
            _ => Error::new("read a device's state", ErrorKind::Io(error)),
        })?;
        self.digest.update(&*to);
        Ok(())
    }
}

fn malformed(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new("read a device's state", ErrorKind::Malformed(why.into()))
}

fn unwritten(error: std::io::Error) -> Error {
    Error::new("write a device's state", ErrorKind::Io(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind {
        vendor: 0x4348,
        device: 0x3253,
    };

    fn file(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), KIND).unwrap();
        for piece in pieces {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    fn state(mut file: &[u8]) -> Result<(Kind, Vec<u8>)> {
        let mut state = Vec::new();
        let (kind, total) = read(&mut file, |piece| {
            state.extend_from_slice(piece);
            Ok(())
        })?;
        assert_eq!(total, state.len() as u64);
        Ok((kind, state))
    }

    #[test]
    fn a_long_state_is_cut_and_joined_again() {
        let long: Vec<u8> = (0..PIECE * 2 + 5).map(|at| at.to_le_bytes()[1]).collect();
        assert_eq!(
            state(&file(&[long.clone(), vec![], vec![1]])).unwrap().1,
            [long, vec![1]].concat()
        );
        assert_eq!(state(&file(&[])).unwrap(), (KIND, Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5)) {
            prop_assert_eq!(state(&file(&pieces)).unwrap(), (KIND, pieces.concat()));
        }

        #[test]
        fn a_file_that_was_changed_or_cut_is_no_state(state_of in prop::collection::vec(any::<u8>(), 1..60), at: prop::sample::Index, flip in 1_u8..) {
            let whole = file(&[state_of]);
            let mut changed = whole.clone();
            changed[at.index(whole.len())] ^= flip;
            prop_assert!(state(&changed).is_err());
            prop_assert!(state(&whole[..at.index(whole.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_a_state_or_an_error(bytes: Vec<u8>) {
            let with_head = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4], &bytes].concat();
            prop_assert!(state(&with_head).is_err());
            prop_assert!(state(&bytes).is_err());
        }
    }
}
