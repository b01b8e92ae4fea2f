//! What a change of the guest's view asks of whoever holds the function.

use pci::cap::PowerStateCode;

/// One thing to do. Those of one access are to be done in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write to the function's own configuration space.
    Forward(Forward),
    /// What the guest's processors reach of the function, and where, is now [`ConfigView::decoded`](super::ConfigView::decoded). Comes before
    /// [`Effect::Command`] where that takes memory away, so that nobody reaches memory that does not answer, and after it otherwise.
    Bars,
    /// The guest wants its command register to be this: bus mastering, memory, errors. It is told that it is.
    Command(u16),
    /// The function may now interrupt in another way, which is [`ConfigView::interrupts`](super::ConfigView::interrupts).
    Interrupts,
    /// Messages or masks of MSI are different, while it is in use.
    Msi,
    /// The state of every vector of MSI-X may be different, while it is in use. (Of a write to its table [`Msix::write`](super::Msix::write)
    /// says which one is.)
    Msix,
    /// Reset the function. What the guest sees has been reset.
    Reset,
    /// Alike, with all that is on its bus.
    BusReset,
    /// The guest wants another power state. In `D3HOT` it reaches nothing but configuration space.
    Power(PowerStateCode),
}

/// A write that goes to the function itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    offset: u16,
    bytes: [u8; 4],
    len: u8,
}

impl Forward {
    /// The first four bytes of `bytes`.
    pub(super) fn new(offset: u16, bytes: &[u8]) -> Self {
        let mut forward = Self {
            offset,
            bytes: [0; 4],
            len: 0,
        };
        for (to, from) in forward.bytes.iter_mut().zip(bytes) {
            *to = *from;
            forward.len += 1;
        }
        forward
    }

    /// Where in configuration space.
    #[must_use]
    pub const fn offset(self) -> u16 {
        self.offset
    }

    /// What: 1 to 4 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The effects of one access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "the function does not know of it yet"]
pub struct Effects {
    list: [Option<Effect>; CAPACITY],
}

/// Two to forward, two commands, and at most one of each other kind.
const CAPACITY: usize = 8;

impl Effects {
    /// Adds one. There is room for all that one access can have.
    pub(super) fn push(&mut self, effect: Effect) {
        if let Some(free) = self.list.iter_mut().find(|place| place.is_none()) {
            *free = Some(effect);
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.iter().all(Option::is_none)
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = Effect> {
        self.list.into_iter().flatten()
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Effect>, CAPACITY>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter().flatten()
    }
}
