//! A function that is pulled out in the middle of anything, or that is never known to be quiet.

use super::{default, options};
use crate::fake::nvme::{Fault, Nvme, When};
use crate::fake::{FakeBacking, Interface};
use crate::nvme::{Controller, QueueOptions};
use crate::{Backing, Error, ErrorKind, Presence, Quiet, Registers, Removal, Result, Vectors, Woken};
use iommu::buffer::{Both, DmaBuffer};
use iommu::space::AddressSpace;
use pci::{Bdf, ConfigSpace};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vfio_core::{Errno, EventFd};

/// Is pulled out with its n-th use.
#[derive(Debug, Clone)]
struct Vanishing {
    backing: FakeBacking,
    left: Arc<AtomicU64>,
    /// Whether its bus mastering cannot be switched off.
    is_restless: bool,
}

impl Vanishing {
    fn restless(backing: FakeBacking) -> Self {
        Self {
            backing,
            left: Arc::new(AtomicU64::new(u64::MAX)),
            is_restless: true,
        }
    }

    fn use_it(&self) -> &FakeBacking {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.backing.machine().remove(self.backing.bdf().unwrap());
        }
        &self.backing
    }
}

impl Backing for Vanishing {
    fn bdf(&self) -> Option<Bdf> {
        self.backing.bdf()
    }

    fn config(&self) -> Result<ConfigSpace> {
        self.use_it().config()
    }

    fn bar_len(&self, bar: u8) -> Result<u64> {
        self.use_it().bar_len(bar)
    }

    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers> {
        self.use_it().map_bar(bar, part)
    }

    fn space(&self) -> &AddressSpace {
        self.backing.space()
    }

    fn vectors(&self, count: usize) -> Result<Vectors> {
        self.use_it().vectors(count)
    }

    fn start(&self) -> Result<()> {
        self.use_it().start()
    }

    fn quiesce(&self) -> Result<Quiet> {
        let quiet = self.use_it().quiesce();
        if self.is_restless {
            let restless = ErrorKind::Failed("it is restless".into());
            return Err(Error::new(self.bdf(), "quiesce", restless));
        }
        quiet
    }

    fn reset(&self) -> Result<()> {
        self.use_it().reset()
    }

    fn removal(&self) -> &Removal {
        self.backing.removal()
    }

    fn presence(&self) -> Presence {
        self.use_it().presence()
    }

    fn now(&self) -> Duration {
        self.use_it().now()
    }

    fn idle(&self) {
        self.use_it().idle();
    }

    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken> {
        self.use_it().wait(event, timeout)
    }
}

#[test]
fn whenever_it_is_pulled_out_it_is_gone_and_nothing_is_left() {
    for uses in 1.. {
        let backing = FakeBacking::through(Interface::Iommufd, Nvme::new(default())).unwrap();
        let machine = backing.machine().clone();
        let vanishing = Vanishing {
            backing,
            left: Arc::new(AtomicU64::new(uses)),
            is_restless: false,
        };
        let left = Arc::clone(&vanishing.left);
        let used = Controller::new(vanishing, &options()).and_then(|controller| {
            controller.namespace(1)?;
            let queue = controller.queue_pair::<DmaBuffer<Both>>(QueueOptions::default())?;
            controller.reset()?;
            drop(queue);
            controller.health()?;
            controller.shut_down()
        });
        let is_over = left.load(Ordering::Relaxed) < u64::MAX / 2 && left.load(Ordering::Relaxed) > 0;
        if let Err(error) = used {
            let is_known = error.is_gone()
                || matches!(
                    error.kind,
                    ErrorKind::Kernel(_) | ErrorKind::Failed(_) | ErrorKind::Unsupported(_)
                );
            assert!(is_known, "use {uses}: {error}");
        }
        assert_eq!(machine.leaks(), Vec::<String>::new(), "use {uses}");
        if is_over {
            break;
        }
    }
}

#[test]
fn of_what_may_still_use_memory_the_memory_is_leaked_and_no_more() {
    let backing = FakeBacking::through(Interface::Iommufd, Nvme::new(default())).unwrap();
    let machine = backing.machine().clone();
    drop(Controller::new(Vanishing::restless(backing), &options()).unwrap());
    let leaks = machine.leaks();
    assert!(leaks.iter().any(|leak| leak.contains("mapping")), "{leaks:?}");
    let is_of_function = |leak: &String| {
        ["is bound", "region", "irq", "vfio"]
            .iter()
            .any(|word| leak.contains(word))
    };
    assert!(!leaks.iter().any(is_of_function), "{leaks:?}");
}

#[test]
fn a_controller_that_has_failed_and_cannot_be_reset_is_not_believed_to_be_disabled() {
    let nvme = Nvme::new(default());
    let backing = FakeBacking::through(Interface::Iommufd, nvme.clone()).unwrap();
    nvme.inject(When::Now, Fault::Fatal);
    backing.poke();
    backing.machine().fail_next("VFIO_DEVICE_RESET", Errno::IO);
    let error = Controller::new(Vanishing::restless(backing), &options()).unwrap_err();
    assert!(error.to_string().contains("restless"), "{error}");
}
