//! The machine, as a test sees it.

use super::builder::Builder;
use super::bus::{Bus, DmaFault};
use super::state::Shared;
use crate::{Step, System};
use pci::Bdf;
use rustix::io::Errno;
use std::sync::{Arc, PoisonError};

/// A machine in memory. Cheap to clone; all clones are the same machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) shared: Arc<Shared>,
}

impl Machine {
    /// Begins a machine with the default [`Iommu`](super::Iommu), iommufd, type 1 containers, and no limit of locked memory.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The system whose files are this machine's: `/dev/iommu`, `/dev/vfio/devices/vfioN` with N counting devices from 0 in the order in which they
    /// were added, `/dev/vfio/GROUP`, `/dev/vfio/vfio`.
    #[must_use]
    pub fn system(&self) -> System {
        System::from_files(Arc::new(super::files::FakeFiles(Arc::clone(&self.shared))), None)
    }

    /// The path of a device's own file.
    #[must_use]
    pub fn cdev_path(&self, bdf: Bdf) -> Option<std::path::PathBuf> {
        let at = self.position(bdf)?;
        let prefix = if self.shared.slot(at)?.noiommu { "noiommu-" } else { "" };
        Some(format!("/dev/vfio/devices/{prefix}vfio{at}").into())
    }

    /// Makes a call fail: the `n`-th from now, the next one for 0. Whatever was to fail before is forgotten.
    ///
    /// The call does nothing but fail. Opening, every ioctl, reads, writes and `mmap` are calls; closing is none.
    ///
    /// ```
    /// use vfio_core::Errno;
    /// use vfio_core::{fake::Machine, iommufd::Iommufd};
    ///
    /// // Whichever call fails, nothing stays open.
    /// for n in 0.. {
    ///     let machine = Machine::builder().build();
    ///     machine.fail_nth(n, Errno::NOMEM);
    ///     let result = Iommufd::open(&machine.system()).and_then(|iommufd| iommufd.alloc_ioas());
    ///     drop(result);
    ///     assert!(machine.leaks().is_empty());
    ///     if machine.failed().is_none() {
    ///         break;
    ///     }
    /// }
    /// ```
    pub fn fail_nth(&self, n: u32, errno: Errno) {
        self.shared.gate.fail_nth(n, errno);
    }

    /// Makes the next call of this name fail, for example `IOMMU_IOAS_UNMAP`.
    pub fn fail_next(&self, name: &'static str, errno: Errno) {
        self.shared.gate.fail_next(name, errno);
    }

    /// The call that was made to fail, if it has been made.
    #[must_use]
    pub fn failed(&self) -> Option<Step> {
        self.shared.gate.failed()
    }

    /// All calls so far, by name: `IOMMU_IOAS_MAP`, `VFIO_DEVICE_RESET`, `open`, `pread`, `mmap`.
    #[must_use]
    pub fn calls(&self) -> Vec<Step> {
        self.shared.gate.names()
    }

    /// Forgets the calls so far, and what was to fail.
    pub fn forget_calls(&self) {
        self.shared.gate.forget();
    }

    /// DMA that did not reach memory so far.
    #[must_use]
    pub fn faults(&self) -> Vec<DmaFault> {
        self.shared.state().faults.clone()
    }

    /// Memory that is pinned and accounted, in bytes.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.shared.state().accounts.pinned()
    }

    /// What is still open, mapped or attached, in words. Empty when every handle is gone and nothing was leaked.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let state = self.shared.state();
        let mut leaks: Vec<String> = state.files.values().map(|file| format!("open: {file}")).collect();
        for context in state.contexts.values() {
            leaks.push("open: /dev/iommu".to_owned());
            leaks.extend(context.objects());
        }
        for container in state.containers.values() {
            leaks.push("open: /dev/vfio/vfio".to_owned());
            leaks.extend(container.describe());
        }
        for (slot, function) in self.shared.slots.iter().zip(&state.functions) {
            let bdf = slot.bdf;
            leaks.extend(function.bound.map(|_| format!("{bdf} is bound")));
            leaks.extend(function.irqs.describe().map(|irqs| format!("{bdf}: {irqs}")));
            let maps = function.maps.values();
            leaks.extend(
                maps.map(|(region, at, len)| format!("{bdf}: {len:#x} bytes of region {region} at {at:#x} are mapped")),
            );
            leaks.extend(
                function
                    .ioeventfds
                    .iter()
                    .map(|event| format!("{bdf}: an ioeventfd at {:#x}", event.offset)),
            );
        }
        if state.accounts.pinned() > 0 {
            leaks.push(format!("{} bytes are pinned", state.accounts.pinned()));
        }
        leaks
    }

    /// Objects and mappings that nobody had destroyed when their file was closed, in words: the kernel ended them, their owner did not.
    #[must_use]
    pub fn abandoned(&self) -> Vec<String> {
        self.shared.state().abandoned.clone()
    }

    /// Calls that only a mistake makes, in words: destroying an object that is used, or that does not exist, as the second time.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        self.shared.state().mistakes.clone()
    }

    /// Forgets what was abandoned, the mistakes and the faults.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.abandoned.clear();
        state.mistakes.clear();
        state.faults.clear();
    }

    /// Pulls a device out. Its user is asked to let go (REQ) and told of an error (ERR); every further call answers ENODEV, except
    /// detaching; registers read as all ones.
    pub fn remove(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.irqs.raise_request();
            function.irqs.raise_error();
            function.removed = true;
        }
    }

    /// Lets so many accesses to a device's configuration space go unanswered, as those to a virtual function while its physical function is
    /// reset: reads are all ones, writes are lost.
    pub fn silence(&self, bdf: Bdf, accesses: u32) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.silence = accesses;
        }
    }

    /// A device reports an uncorrectable error (ERR).
    pub fn report_error(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.irqs.raise_error();
        }
    }

    /// The kernel asks the user of a device to let it go (REQ).
    pub fn request_release(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.irqs.raise_request();
        }
    }

    /// Something happens to a device: its [`Device::poke`](super::Device::poke) is called. A device that sleeps wakes.
    pub fn poke(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.wake();
        }
        if let Some(slot) = self.shared.slot(at) {
            let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
            device.poke(&Bus::new(&self.shared, at));
        }
        self.shared.settle();
    }

    /// Does what waits for an eventfd that was signalled meanwhile.
    pub fn settle(&self) {
        self.shared.settle();
    }

    fn position(&self, bdf: Bdf) -> Option<usize> {
        self.shared.slots.iter().position(|slot| slot.bdf == bdf)
    }
}
