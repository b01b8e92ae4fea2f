//! Controllers in memory, driven by the driver.

mod bring_up;
mod commands;
mod faults;
mod manage;
mod memory_buffer;
mod runs;
mod vanishing;

use super::{Controller, Options};
use crate::Result;
use crate::fake::nvme::{self, Nvme};
use crate::fake::{FakeBacking, Interface};
use std::time::Duration;

const BOTH: [Interface; 2] = [Interface::Iommufd, Interface::Type1];

/// Short, so that what never comes is not waited for long.
fn options() -> Options {
    Options {
        queues: 4,
        vectors: 5,
        admin_timeout: Duration::from_millis(20),
        ..Options::default()
    }
}

/// A controller in memory, and the handle on what it is.
struct Fake {
    nvme: Nvme,
    backing: FakeBacking,
}

impl Fake {
    fn new(options: nvme::Options) -> Self {
        Self::through(Interface::Iommufd, options)
    }

    fn through(interface: Interface, options: nvme::Options) -> Self {
        let nvme = Nvme::new(options);
        let backing = FakeBacking::through(interface, nvme.clone()).unwrap();
        Self { nvme, backing }
    }

    fn open(&self) -> Result<Controller<FakeBacking>> {
        Controller::new(self.backing.clone(), &options())
    }

    /// Nothing is left of it, and the driver did what drivers do.
    fn leaves_nothing(self) {
        let machine = self.backing.machine().clone();
        drop(self.backing);
        assert_eq!(self.nvme.mistakes(), Vec::<String>::new());
        assert_eq!(machine.leaks(), Vec::<String>::new());
        assert_eq!(machine.mistakes(), Vec::<String>::new());
    }
}

/// A controller with one namespace and all that is optional, and short time-outs.
fn default() -> nvme::Options {
    nvme::Options {
        timeout: 0,
        ..nvme::Options::default()
    }
}
