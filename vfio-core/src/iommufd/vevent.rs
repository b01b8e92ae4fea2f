//! Events of a virtual IOMMU: faults and errors that a virtual machine must hear of.

use super::command::{READ_EVENTS, VEVENTQ_ALLOC};
use super::viommu::Viommu;
use super::{Object, ObjectId, Parent};
use crate::Error;
use crate::sys::iommufd::Queue;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// `sizeof(struct iommufd_vevent_header)`.
const HEADER: usize = 8;
const FLAG_LOST_EVENTS: u32 = 1;

/// A kind of event, and how long one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VeventKind {
    /// `enum iommu_veventq_type`.
    pub kind: u32,
    /// Bytes of one event's data.
    pub data_len: usize,
}

impl VeventKind {
    /// Arm SMMUv3: an event record of four little-endian words.
    pub const ARM_SMMUV3: Self = Self { kind: 1, data_len: 32 };
    /// NVIDIA Tegra241 CMDQV: an error map of two little-endian words.
    pub const TEGRA241_CMDQV: Self = Self { kind: 2, data_len: 16 };
}

/// No IOMMU's event is nearly as long.
const MANY_BYTES: usize = 4096;

/// What comes out of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vevent {
    /// An event. Sequence numbers count up from 0 to 2^31 - 1 and around; a gap is a loss.
    Event {
        /// Its number.
        sequence: u32,
        /// What the IOMMU says.
        data: Vec<u8>,
    },
    /// Events were lost since the last one, up to and with this number.
    Lost {
        /// The number of the last one lost.
        sequence: u32,
    },
}

/// A queue of events of a [`Viommu`].
#[derive(Debug)]
pub struct VeventQueue {
    /// Closed before the object is destroyed: an open descriptor keeps the kernel from it.
    queue: Box<dyn Queue>,
    kind: VeventKind,
    object: Arc<Object>,
}

impl VeventQueue {
    /// Makes the queue for one kind of event, of at most `depth` of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a kind that the virtual IOMMU does not report;
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for events of more than 4 KiB;
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with EEXIST if there is one, EINVAL for a depth of 0 or beyond the kernel's limit.
    #[doc(alias = "IOMMU_VEVENTQ_ALLOC")]
    pub fn alloc(viommu: &Viommu, kind: VeventKind, depth: u32) -> Result<Self, Error> {
        if kind.data_len > MANY_BYTES {
            return Err(VEVENTQ_ALLOC.invalid("events that are longer than any"));
        }
        let iommufd = viommu.object().iommufd();
        let made = iommufd.calls().veventq_alloc(viommu.id().0, kind.kind, depth);
        let (id, queue) = made.map_err(|errno| VEVENTQ_ALLOC.error(errno))?;
        let parent: Parent = Arc::<Object>::clone(viommu.object());
        let object = Object::new(iommufd, id, "VEVENTQ", vec![parent]);
        Ok(Self { queue, kind, object })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// The next event, or `None` if there is none. Never waits: poll the descriptor for that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) for an event that is cut; [`ErrorKind::Os`](crate::ErrorKind::Os) with EINVAL if
    /// events are longer than their kind says.
    pub fn read(&self) -> Result<Option<Vevent>, Error> {
        // Room for exactly one: the kernel gives no event in part.
        let mut buffer = vec![0; HEADER + self.kind.data_len];
        match self.queue.read(&mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            Ok(len) => {
                let event = buffer.get(..len).and_then(|bytes| decode(bytes, self.kind.data_len));
                event
                    .map(Some)
                    .ok_or_else(|| READ_EVENTS.malformed("an event that is cut"))
            }
            Err(errno) => Err(READ_EVENTS.error(errno)),
        }
    }
}

impl AsFd for VeventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.ready()
    }
}

fn decode(bytes: &[u8], data_len: usize) -> Option<Vevent> {
    let (flags, rest) = bytes.split_first_chunk()?;
    let (sequence, data) = rest.split_first_chunk()?;
    let sequence = u32::from_ne_bytes(*sequence);
    if u32::from_ne_bytes(*flags) & FLAG_LOST_EVENTS != 0 {
        return Some(Vevent::Lost { sequence });
    }
    (data.len() == data_len).then(|| Vevent::Event {
        sequence,
        data: data.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_header_and_its_data() {
        let bytes =
            |flags: u32, sequence: u32, data: &[u8]| [&flags.to_ne_bytes()[..], &sequence.to_ne_bytes(), data].concat();
        let event = Vevent::Event {
            sequence: 5,
            data: vec![1, 2, 3, 4],
        };
        assert_eq!(decode(&bytes(0, 5, &[1, 2, 3, 4]), 4), Some(event));
        assert_eq!(
            decode(&bytes(FLAG_LOST_EVENTS, 6, &[]), 4),
            Some(Vevent::Lost { sequence: 6 })
        );
        assert_eq!(decode(&bytes(0, 5, &[1, 2, 3]), 4), None);
        assert_eq!(decode(&[0; 7], 4), None);
    }
}
