//! Virtualization management: giving queues and interrupts to the controllers of virtual functions, and taking them online
//! (Base §5.2.6, §8.2.6). These are commands of the physical function's controller.

use super::controller::Controller;
use super::spec::identify::AdminCommands;
use super::spec::virtualization::{Action, Resource, SecondaryController};
use super::spec::{Opcode, Sqe};
use crate::{Backing, Error, ErrorKind, Result};

/// What the controller of a virtual function gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Queue pairs with the admin queue's: 2 at least.
    pub queues: u16,
    /// Interrupt vectors: 1 at least.
    pub interrupts: u16,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            queues: 2,
            interrupts: 1,
        }
    }
}

impl<B: Backing> Controller<B> {
    /// Makes the controller of a virtual function (counted from 1) ready to be driven: takes it offline, gives it queues and interrupts, takes
    /// it online, and looks whether it is. Namespaces that are shared and attached to it are there then.
    ///
    /// If what it needs is this controller's own, this controller gives up its flexible queues and interrupts, and is reset for it; queues
    /// recover from that as from any reset.
    ///
    /// The virtual function itself must be there: PCI's SR-IOV capability makes it (`sriov_numvfs`). One that is driven already stops.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) without virtualization management; [`Invalid`](ErrorKind::Invalid) for a function without a
    /// controller, and more resources than there are; as [`execute`](Self::execute).
    pub fn bring_up_virtual_function(&self, function: u16, resources: Resources) -> Result<SecondaryController> {
        let step = "bring up a virtual function";
        self.require(step, AdminCommands::VIRTUALIZATION)?;
        let controller = self.secondary_of(step, function)?;
        let id = controller.scid.get();
        self.take_offline(id)?;
        // What it has had until now is free before what it needs is looked for.
        for resource in KINDS {
            if self.primary_capabilities()?.has(resource) {
                self.assign(id, resource, 0)?;
            }
        }
        self.make_room(step, resources)?;
        for resource in KINDS {
            self.assign(id, resource, resources.count(resource))?;
        }
        self.take_online(id)?;
        let after = self.secondary_of(step, function)?;
        let has_all = KINDS
            .iter()
            .all(|resource| after.resources(*resource) >= resources.count(*resource));
        if after.is_online() && has_all {
            return Ok(after);
        }
        let what = format!("controller {id} is not what was asked for: {after:?}");
        Err(self.failed(step, ErrorKind::Failed(what.into())))
    }

    /// Assigns flexible resources to a secondary controller that is offline: how many it has now.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn assign(&self, controller: u16, resource: Resource, count: u16) -> Result<u16> {
        self.manage(
            "Virtualization Management: assign",
            controller,
            Action::Assign,
            resource,
            count,
        )
    }

    /// Takes a secondary controller online. It needs resources, and its virtual function has to be there.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn take_online(&self, controller: u16) -> Result<()> {
        let step = "Virtualization Management: online";
        self.manage(step, controller, Action::Online, Resource::Queues, 0)
            .map(drop)
    }

    /// Takes a secondary controller offline: it stops, as by a reset.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn take_offline(&self, controller: u16) -> Result<()> {
        let step = "Virtualization Management: offline";
        self.manage(step, controller, Action::Offline, Resource::Queues, 0)
            .map(drop)
    }

    /// Allocates flexible resources to this controller itself, from its next [`reset`](Self::reset) on: how many.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn allocate(&self, resource: Resource, count: u16) -> Result<u16> {
        let step = "Virtualization Management: allocate";
        self.manage(
            step,
            self.identity().cntlid.get(),
            Action::AllocatePrimary,
            resource,
            count,
        )
    }

    fn manage(
        &self,
        step: &'static str,
        controller: u16,
        action: Action,
        resource: Resource,
        count: u16,
    ) -> Result<u16> {
        self.require(step, AdminCommands::VIRTUALIZATION)?;
        let cdw10 = action.number() | resource.number() << 8 | u32::from(controller) << 16;
        let sqe = Sqe::new(Opcode::VIRTUALIZATION_MANAGEMENT, 0)
            .with_cdw10(cdw10)
            .with_cdw11(count.into());
        let result = self.execute(step, sqe)?;
        Ok(u16::try_from(result & 0xffff).unwrap_or(0))
    }

    fn secondary_of(&self, step: &'static str, function: u16) -> Result<SecondaryController> {
        let controllers = self.secondary_controllers()?;
        let found = controllers.iter().find(|controller| controller.vfn.get() == function);
        found.copied().filter(|_| function != 0).ok_or_else(|| {
            let why = format!(
                "virtual function {function} has no controller; there are {}",
                controllers.len()
            );
            self.failed(step, ErrorKind::Invalid(why.into()))
        })
    }

    /// Sees to it that so much can be assigned to a secondary controller.
    fn make_room(&self, step: &'static str, wanted: Resources) -> Result<()> {
        let before = self.primary_capabilities()?;
        let lacks = |error: String| -> Error { self.failed(step, ErrorKind::Invalid(error.into())) };
        for resource in KINDS {
            let (count, most) = (wanted.count(resource), before.most(resource));
            if count > most {
                return Err(lacks(format!(
                    "{count} of {resource:?}; a controller has {most} at most"
                )));
            }
        }
        let is_short = KINDS
            .iter()
            .any(|resource| before.free(*resource) < u32::from(wanted.count(*resource)));
        if !is_short {
            return Ok(());
        }
        for resource in KINDS {
            self.allocate(resource, 0)?;
        }
        self.reset()?;
        let after = self.primary_capabilities()?;
        for resource in KINDS {
            let (count, free) = (wanted.count(resource), after.free(resource));
            if free < u32::from(count) {
                return Err(lacks(format!("{count} of {resource:?}; {free} are left")));
            }
        }
        Ok(())
    }
}

/// Interrupts first, as the order that is known to work has them.
const KINDS: [Resource; 2] = [Resource::Interrupts, Resource::Queues];

impl Resources {
    fn count(self, resource: Resource) -> u16 {
        match resource {
            Resource::Queues => self.queues,
            Resource::Interrupts => self.interrupts,
        }
    }
}
