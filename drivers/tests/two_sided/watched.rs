//! A fake function whose driver may not wait for ever.

use drivers::fake::FakeBacking;
use drivers::{Backing, Presence, Quiet, Registers, Removal, Result, Vectors, Woken};
use iommu::space::AddressSpace;
use pci::{Bdf, ConfigSpace};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vfio_core::EventFd;
use vfio_core::fake::Machine;

/// A [`FakeBacking`] that counts fruitless turns, and panics when there are too many in one call of the driver.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    inner: FakeBacking,
    turns: Arc<AtomicU64>,
    /// Turns of flying time.
    flown: Arc<AtomicU64>,
}

/// Turns of a call.
const MOST: u64 = 200_000;
/// After so many, time flies: each turn takes so much longer. What waits for minutes is not what is tested.
const PATIENCE: u64 = 2_000;
const FLYING: Duration = Duration::from_millis(10);

impl Watched {
    pub(super) fn new(inner: FakeBacking) -> Self {
        Self {
            inner,
            turns: Arc::default(),
            flown: Arc::default(),
        }
    }

    pub(super) fn machine(&self) -> &Machine {
        self.inner.machine()
    }

    /// A call begins.
    pub(super) fn begin(&self) {
        self.turns.store(0, Ordering::Relaxed);
    }
}

impl Backing for Watched {
    fn bdf(&self) -> Option<Bdf> {
        self.inner.bdf()
    }

    fn config(&self) -> Result<ConfigSpace> {
        self.inner.config()
    }

    fn bar_len(&self, bar: u8) -> Result<u64> {
        self.inner.bar_len(bar)
    }

    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers> {
        self.inner.map_bar(bar, part)
    }

    fn space(&self) -> &AddressSpace {
        self.inner.space()
    }

    fn vectors(&self, count: usize) -> Result<Vectors> {
        self.inner.vectors(count)
    }

    fn start(&self) -> Result<()> {
        self.inner.start()
    }

    fn quiesce(&self) -> Result<Quiet> {
        self.inner.quiesce()
    }

    fn reset(&self) -> Result<()> {
        self.inner.reset()
    }

    fn removal(&self) -> &Removal {
        self.inner.removal()
    }

    fn presence(&self) -> Presence {
        self.inner.presence()
    }

    fn now(&self) -> Duration {
        let flown = u32::try_from(self.flown.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        self.inner.now() + FLYING * flown
    }

    fn idle(&self) {
        let turns = self.turns.fetch_add(1, Ordering::Relaxed);
        assert!(turns < MOST, "the driver waits for ever");
        if turns > PATIENCE {
            self.flown.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.idle();
    }

    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken> {
        let begin = self.now();
        loop {
            self.idle();
            if event.try_read().expect("it can be read").is_some() {
                return Ok(Woken::Signalled);
            }
            if self.removal().presence() != Presence::Present {
                return Ok(Woken::Removal);
            }
            if timeout.is_some_and(|timeout| self.now() - begin >= timeout) {
                return Ok(Woken::TimedOut);
            }
        }
    }
}
