//! What a machine is built of.

use super::device::{Abilities, Device};
use super::gate::Gate;
use super::machine::Machine;
use super::options::Iommu;
use super::state::{Shared, Slot};
use super::vfio::{Function, config::Config};
use pci::{Bdf, GroupId};
use std::sync::{Arc, Mutex};

/// What a machine is to be built of.
#[derive(Debug)]
pub struct Builder {
    shared: Shared,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            shared: Shared {
                gate: Gate::default(),
                state: Mutex::default(),
                slots: Vec::new(),
                bystanders: Vec::new(),
                iommu: Iommu::default(),
                mapping_limit: u16::MAX.into(),
                iommufd: true,
                type1: true,
            },
        }
    }

    /// Chooses the IOMMU.
    #[must_use]
    pub fn iommu(mut self, iommu: Iommu) -> Self {
        self.shared.iommu = iommu;
        self
    }

    /// Limits locked memory (RLIMIT_MEMLOCK), in bytes.
    #[must_use]
    pub fn memlock(self, limit: u64) -> Self {
        self.shared.state().accounts.limit = Some(limit);
        self
    }

    /// Limits the mappings of a type 1 container (`dma_entry_limit`).
    #[must_use]
    pub fn mapping_limit(mut self, limit: u32) -> Self {
        self.shared.mapping_limit = limit;
        self
    }

    /// Whether there is `/dev/iommu`, and with it `/dev/vfio/devices`.
    #[must_use]
    pub fn iommufd(mut self, there: bool) -> Self {
        self.shared.iommufd = there;
        self
    }

    /// Whether there is `/dev/vfio/vfio`.
    #[must_use]
    pub fn type1(mut self, there: bool) -> Self {
        self.shared.type1 = there;
        self
    }

    /// Adds a device.
    ///
    /// # Panics
    ///
    /// If the machine has a function of this address: that is a mistake of the test.
    #[must_use]
    pub fn device(self, bdf: Bdf, group: GroupId, device: impl Device + 'static) -> Self {
        self.add(bdf, group, None, false, Box::new(device))
    }

    /// Adds a virtual function of a device that was added before.
    ///
    /// # Panics
    ///
    /// As [`device`](Self::device), and if the machine has no device `of`.
    #[must_use]
    pub fn virtual_function(mut self, bdf: Bdf, group: GroupId, of: Bdf, device: impl Device + 'static) -> Self {
        let physical = self.shared.slots.iter().position(|slot| slot.bdf == of);
        assert!(
            physical.is_some(),
            "{of}, of which {bdf} is to be a virtual function, is added first"
        );
        if let Some(slot) = physical.and_then(|at| self.shared.slots.get_mut(at)) {
            slot.has_vfs = true;
        }
        self.add(bdf, group, physical, false, Box::new(device))
    }

    /// Adds a device that no IOMMU translates for.
    ///
    /// # Panics
    ///
    /// As [`device`](Self::device).
    #[must_use]
    pub fn device_without_iommu(self, bdf: Bdf, group: GroupId, device: impl Device + 'static) -> Self {
        self.add(bdf, group, None, true, Box::new(device))
    }

    /// Adds a function with a driver of the host: its group is not viable.
    ///
    /// # Panics
    ///
    /// As [`device`](Self::device).
    #[must_use]
    pub fn bystander(mut self, bdf: Bdf, group: GroupId) -> Self {
        self.refuse_twice(bdf);
        self.shared.bystanders.push((bdf, group.0));
        self
    }

    fn refuse_twice(&self, bdf: Bdf) {
        let devices = self.shared.slots.iter().map(|slot| slot.bdf);
        let mut all = devices.chain(self.shared.bystanders.iter().map(|(bdf, _)| *bdf));
        assert!(
            all.all(|other| other != bdf),
            "the machine has a function {bdf} already"
        );
    }

    fn add(
        mut self,
        bdf: Bdf,
        group: GroupId,
        physical: Option<usize>,
        noiommu: bool,
        device: Box<dyn Device>,
    ) -> Self {
        self.refuse_twice(bdf);
        let description = device.description();
        self.shared
            .state()
            .functions
            .push(Function::new(Config::new(&description)));
        self.shared.slots.push(Slot {
            bdf,
            group: group.0,
            noiommu,
            physical,
            has_vfs: false,
            pasid_bits: description.pasid_bits,
            page_requests: description.has(Abilities::PAGE_REQUESTS),
            description,
            device: Mutex::new(device),
        });
        self
    }

    /// The machine.
    #[must_use]
    pub fn build(self) -> Machine {
        Machine {
            shared: Arc::new(self.shared),
        }
    }
}
