//! What these types promise, on a small kernel of the tests' own.

mod copies;
mod faults;
mod machine;
mod mappings;
mod objects;

use super::{IommuDevice, Iommufd, Object, ObjectId};
use crate::{Access, Memory, MemoryOptions, System};
use machine::{Machine, Open};
use std::any::Any;
use std::sync::Arc;

const RW: Access = Access::READ.union(Access::WRITE);

fn iommufd(machine: &Arc<Machine>) -> Iommufd {
    Iommufd::from_calls(Arc::new(Open(Arc::clone(machine))), System::host())
}

fn memory(pages: usize) -> Arc<Memory> {
    Arc::new(Memory::new(pages * 4096, MemoryOptions::default()).unwrap())
}

/// A device that is an object of its own, so that the order in which it goes is seen.
#[derive(Clone)]
struct Device(Arc<Object>);

impl Device {
    fn new(iommufd: &Iommufd) -> Self {
        Self(Object::new(
            iommufd,
            iommufd.calls().ioas_alloc().unwrap(),
            "DEVICE",
            Vec::new(),
        ))
    }
}

impl super::sealed::Sealed for Device {}

impl IommuDevice for Device {
    fn device_id(&self) -> ObjectId {
        self.0.id()
    }

    fn iommufd(&self) -> &Iommufd {
        self.0.iommufd()
    }

    fn hold(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::<Object>::clone(&self.0)
    }
}
