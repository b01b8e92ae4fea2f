//! What the port and its queues share: registers, interrupts, and whether the function works.

use super::regs::{self, physical as pf};
use super::spec::Message;
use crate::removal::Claim;
use crate::{Backing, Error, ErrorKind, Presence, Registers, Result, Vectors};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_core::EventFd;
use vfio_core::mmio::Window;

/// The function. Held by the port and by each of its queues, which may be on threads of their own.
#[derive(Debug)]
pub(super) struct Function<B: Backing> {
    pub(super) kind: Kind,
    // Dropped in this order: unmapped, interrupts off, then quiet and reset.
    pub(super) registers: Window<Registers, { regs::LEN }>,
    vectors: Option<Vectors>,
    _claim: Claim,
    pub(super) backing: B,
    /// [`Health`] and how often the function was set up.
    epoch: AtomicU32,
    /// Bits of the queues that exist, and of the vectors that they have.
    taken: AtomicU32,
    /// What was written to VTIVAR.
    ivar: Mutex<u32>,
    /// Its bus mastering is off, and queues may have been given up that are still on. So it was, perhaps, before it was opened.
    is_quiet: Mutex<bool>,
}

/// Which function of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Virtual,
    Physical,
}

/// Whether the function works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Running = 0,
    /// The PF was reset, or refuses everything: the port has to recover.
    Down = 1,
    Gone = 2,
}

/// Bits of the epoch that say its health.
const HEALTH: u32 = 3;
const DOWN: &str = "the physical function was reset: the port recovers, then its queues restart";
/// The vectors of a VF.
pub(super) const VECTORS: usize = 3;
/// The vector of the mailbox, or of the link for a PF. Queues have the others.
const MAILBOX_VECTOR: usize = 2;
/// Bit of vector 0 among what is taken; queues are below.
const FIRST_VECTOR: u32 = 1 << 8;

impl Kind {
    /// By the identity of a function.
    pub(super) fn of(vendor: u16, device: u16) -> Option<Self> {
        match (vendor, device) {
            (0x8086, 0x10ca) => Some(Self::Virtual),
            (0x8086, 0x10c9) => Some(Self::Physical),
            _ => None,
        }
    }

    /// How much of BAR 0 is needed.
    pub(super) fn bar_len(self) -> u64 {
        match self {
            Self::Virtual => regs::LEN as u64,
            Self::Physical => pf::LEN,
        }
    }
}

impl<B: Backing> Function<B> {
    pub(super) fn new(
        kind: Kind,
        backing: B,
        registers: Registers,
        vectors: Option<Vectors>,
        claim: Claim,
    ) -> Result<Self> {
        let Some(registers) = Window::new(registers, 0) else {
            let kind = ErrorKind::Unsupported("BAR 0 of less than 16 KiB".into());
            return Err(Error::new(backing.bdf(), "map the registers", kind));
        };
        Ok(Self {
            kind,
            registers,
            vectors,
            _claim: claim,
            backing,
            epoch: AtomicU32::new(Health::Down as u32),
            taken: AtomicU32::new(0),
            ivar: Mutex::new(0),
            is_quiet: Mutex::new(true),
        })
    }

    pub(super) fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        Error::new(self.backing.bdf(), step, kind)
    }

    /// A register whose place is known only at run time.
    #[inline]
    pub(super) fn read(&self, offset: usize) -> u32 {
        // All of them lie inside the window.
        self.registers.mmio().read_u32(offset).unwrap_or(u32::MAX)
    }

    #[inline]
    pub(super) fn write(&self, offset: usize, value: u32) {
        let written = self.registers.mmio().write_u32(offset, value);
        debug_assert!(written.is_some(), "no register at {offset:#x}");
    }

    /// Replaces some bits of a register, of which there is one owner.
    pub(super) fn change(&self, offset: usize, mask: u32, bits: u32) {
        self.write(offset, self.read(offset) & !mask | bits);
    }

    /// To be compared with [`check`](Self::check) later.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn health(&self) -> Health {
        match self.epoch() & HEALTH {
            0 => Health::Running,
            1 => Health::Down,
            _ => Health::Gone,
        }
    }

    /// Switches bus mastering on if the function is quiet, after a reset: a queue that was given up must not find its memory again.
    pub(super) fn start(&self) -> Result<()> {
        let mut is_quiet = locked(&self.is_quiet);
        if *is_quiet {
            self.backing.reset()?;
            self.backing.start()?;
            *is_quiet = false;
        }
        Ok(())
    }

    /// Makes the function quiet: none of its queues works before the port has recovered.
    pub(super) fn quiesce(&self) -> Result<()> {
        let mut is_quiet = locked(&self.is_quiet);
        self.worsen(Health::Down);
        *is_quiet = true;
        self.backing.quiesce().map(drop)
    }

    /// Ends what began at an epoch by a new one, in which the function works.
    ///
    /// # Errors
    ///
    /// When it was made quiet, or has gone, meanwhile.
    pub(super) fn set_running(&self, begun: u32, step: &'static str) -> Result<()> {
        let is_quiet = locked(&self.is_quiet);
        let next = (begun | HEALTH).wrapping_add(1);
        // Released: who sees it sees the registers that were set before, too.
        let set = self
            .epoch
            .compare_exchange(begun, next, Ordering::AcqRel, Ordering::Relaxed);
        if *is_quiet || set.is_err() {
            self.worsen(Health::Down);
            return Err(self.why_not(step));
        }
        self.wake();
        Ok(())
    }

    /// Its health gets worse, never better. Who waits hears of it.
    pub(super) fn worsen(&self, health: Health) {
        let before = self.epoch.fetch_or(health as u32, Ordering::AcqRel);
        if before | health as u32 != before {
            self.wake();
        }
    }

    /// Wakes all who wait for an interrupt: the queues that have one, and who looks after the port.
    pub(super) fn wake(&self) {
        let taken = self.taken.load(Ordering::Acquire) | FIRST_VECTOR << MAILBOX_VECTOR;
        let vectors = (0..VECTORS).filter(|vector| taken & FIRST_VECTOR << vector != 0);
        for event in vectors.filter_map(|vector| self.event(vector)) {
            if let Err(error) = event.signal() {
                tracing::warn!(%error, "who waits for the port is not woken");
            }
        }
    }

    /// Whether queues of this epoch still work, and are still wanted. Two loads.
    #[inline]
    pub(super) fn is_working(&self, epoch: u32) -> bool {
        // Relaxed: a queue touches nothing on the strength of it.
        self.epoch.load(Ordering::Relaxed) == epoch && self.backing.removal().presence() == Presence::Present
    }

    /// The same, with why they do not.
    #[inline]
    pub(super) fn check(&self, epoch: u32, step: &'static str) -> Result<()> {
        if self.is_working(epoch) {
            return Ok(());
        }
        Err(self.why_not(step))
    }

    /// Its epoch, for a queue that begins.
    pub(super) fn begin(&self, step: &'static str) -> Result<u32> {
        let epoch = self.epoch();
        if epoch & HEALTH != Health::Running as u32 {
            return Err(self.why_not(step));
        }
        self.check(epoch, step)?;
        Ok(epoch)
    }

    #[cold]
    fn why_not(&self, step: &'static str) -> Error {
        let is_wanted = self.backing.removal().presence() == Presence::Present;
        if is_wanted && self.health() != Health::Gone {
            self.failed(step, ErrorKind::Failed(DOWN.into()))
        } else {
            self.failed(step, ErrorKind::Gone)
        }
    }

    /// The function is not there any more.
    pub(super) fn lose(&self, step: &'static str) -> Error {
        self.backing.removal().tell(Presence::Gone);
        self.worsen(Health::Gone);
        self.failed(step, ErrorKind::Gone)
    }

    /// Takes a queue, or a vector, for its only owner.
    pub(super) fn take(&self, bit: u32, step: &'static str) -> Result<()> {
        if self.taken.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Err(self.failed(step, ErrorKind::Invalid("it has an owner".into())));
        }
        Ok(())
    }

    pub(super) fn give_back(&self, bit: u32) {
        self.taken.fetch_and(!bit, Ordering::AcqRel);
    }

    /// Takes a vector for one queue, and sends the queue's interrupts to it.
    pub(super) fn claim_vector(&self, entry: u32, vector: usize) -> Result<usize> {
        const STEP: &str = "give a queue an interrupt";
        if self.event(vector).is_none() {
            let kind = ErrorKind::Unsupported("the port was opened without so many interrupts: poll this queue".into());
            return Err(self.failed(STEP, kind));
        }
        self.take(FIRST_VECTOR << vector, STEP)?;
        self.direct(entry, u32::try_from(vector).unwrap_or_default() | regs::IVAR_VALID);
        Ok(vector)
    }

    pub(super) fn give_back_vector(&self, entry: u32, vector: usize) {
        self.registers.write(regs::EIMC, 1 << vector);
        self.direct(entry, 0);
        self.give_back(FIRST_VECTOR << vector);
    }

    /// Sets an entry of VTIVAR.
    fn direct(&self, entry: u32, value: u32) {
        let mut ivar = locked(&self.ivar);
        *ivar = *ivar & !(0xff << (8 * entry)) | value << (8 * entry);
        self.write_ivar(*ivar);
    }

    fn write_ivar(&self, ivar: u32) {
        match self.kind {
            Kind::Virtual => self.registers.write(regs::IVAR, ivar),
            Kind::Physical => {
                self.registers.write(regs::IVAR, ivar & 0xffff);
                self.registers.write(regs::IVAR_NEXT, ivar >> 16);
            }
        }
    }

    /// The event of a vector.
    pub(super) fn event(&self, vector: usize) -> Option<&EventFd> {
        self.vectors.as_ref()?.event(vector)
    }

    pub(super) fn mailbox_event(&self) -> Option<&EventFd> {
        self.event(MAILBOX_VECTOR)
    }

    /// Sets up interrupts after a reset; none come before [`arm`](Self::arm).
    pub(super) fn set_up_vectors(&self, interval: Duration) {
        self.registers.write(regs::EIMC, u32::MAX);
        if self.vectors.is_none() {
            return;
        }
        let all = (1 << VECTORS) - 1;
        self.registers.write(regs::EIAC, all);
        self.registers.write(regs::EIAM, all);
        // In microseconds, 13 bits of them from bit 2 on (§8.8.14).
        let interval = u32::try_from(interval.as_micros()).unwrap_or(u32::MAX).min(0x1fff) << 2;
        for vector in 0..VECTORS {
            self.write(regs::EITR + 4 * vector, interval);
        }
        self.write_ivar(*locked(&self.ivar));
        let mailbox = u32::try_from(MAILBOX_VECTOR).unwrap_or_default() | regs::IVAR_VALID;
        match self.kind {
            Kind::Virtual => self.registers.write(regs::IVAR_MISC, mailbox),
            Kind::Physical => {
                self.write(pf::GPIE, pf::VECTORS);
                // Its first entry is a timer's.
                self.registers.write(regs::IVAR_MISC, mailbox << 8);
                self.write(pf::IMS, pf::LINK_CHANGED);
            }
        }
        self.arm(MAILBOX_VECTOR);
    }

    /// Lets a vector send its next message; one whose cause is there already does so at once.
    pub(super) fn arm(&self, vector: usize) {
        self.registers.write(regs::EIMS, 1 << vector);
    }

    /// The same for the mailbox.
    pub(super) fn arm_mailbox(&self) {
        self.arm(MAILBOX_VECTOR);
    }

    /// A word of the mailbox's memory.
    pub(super) fn read_message(&self) -> Message {
        Message {
            words: std::array::from_fn(|at| self.read(regs::VMBMEM + 4 * at)),
        }
    }

    pub(super) fn write_message(&self, message: &Message) {
        for (at, word) in message.words.iter().enumerate() {
            self.write(regs::VMBMEM + 4 * at, *word);
        }
    }
}

/// Nothing that panics is done while one of these is held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
