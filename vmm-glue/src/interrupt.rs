//! Interrupts of the guest.

use crate::{Error, ErrorKind, Result};
use std::fmt;
use vfio_core::EventFd;

/// A message-signalled interrupt: a write of `data` to `address` (PCI Local Bus 3.0 §6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MsiMessage {
    /// Where it is written; `0xFEEx_xxxx` on x86.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

impl MsiMessage {
    /// Whether it goes to a local APIC, so that KVM can deliver it. What a guest writes elsewhere is a write to memory, and is not.
    #[must_use]
    pub fn is_deliverable(self) -> bool {
        self.address & 0xFFFF_FFFF_FFF0_0000 == 0xFEE0_0000
    }
}

/// Where interrupts of the guest come from.
pub trait Irqs: fmt::Debug + Send + Sync {
    /// A route of its own for one vector of a device; it delivers nothing yet.
    ///
    /// # Errors
    ///
    /// When no route is left; KVM's own.
    fn route(&self) -> Result<Box<dyn Route>>;

    /// What each of these routes stands for from now on: of those that are [delivered](Route::deliver), and of the others once they are. However many they
    /// are, KVM is told once, and of nothing when nothing changes: that takes it as long as there are messages in the whole guest.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a message that is not [deliverable](MsiMessage::is_deliverable); KVM's own. All stand for what they did before then.
    fn set(&self, messages: &[(&dyn Route, MsiMessage)]) -> Result<()>;

    /// A level-triggered line of the guest's interrupt controller. Lines may be shared.
    ///
    /// # Errors
    ///
    /// KVM's own.
    fn line(&self, gsi: u32) -> Result<Box<dyn Line>>;

    /// Delivers one message now. One that is not [deliverable](MsiMessage::is_deliverable) is dropped.
    ///
    /// # Errors
    ///
    /// KVM's own.
    fn signal(&self, message: MsiMessage) -> Result<()>;
}

/// Refuses what KVM cannot deliver.
pub(crate) fn check(messages: &[(&dyn Route, MsiMessage)]) -> Result<()> {
    if messages.iter().all(|(_, message)| message.is_deliverable()) {
        return Ok(());
    }
    let kind = ErrorKind::Invalid("a message that goes to no local APIC");
    Err(Error::new("KVM_SET_GSI_ROUTING", kind))
}

/// From an event to a message, with no exit and no system call of this process (irqfd).
pub trait Route: fmt::Debug + Send + Sync {
    /// What is signalled to interrupt the guest.
    fn event(&self) -> &EventFd;

    /// Tells it from the other routes of the same [`Irqs`].
    fn number(&self) -> u32;

    /// Whether its message is delivered from now on. What is signalled while it is not stays in the event. One call of KVM, or none.
    ///
    /// # Errors
    ///
    /// KVM's own; it is as it was then.
    fn deliver(&self, is_wanted: bool) -> Result<()>;
}

/// A line that an event asserts, and that stays so until the guest has said that it is done (`KVM_IRQFD_FLAG_RESAMPLE`).
pub trait Line: fmt::Debug + Send + Sync {
    /// What is signalled to assert it.
    fn event(&self) -> &EventFd;

    /// Is signalled when the guest has ended the interrupt, or has unmasked a line that was asserted before, and the line is no longer asserted: whoever still
    /// has an interrupt asserts it anew.
    fn resample(&self) -> &EventFd;
}
