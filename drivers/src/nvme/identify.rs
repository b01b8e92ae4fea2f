//! Asking a controller what there is (Base §5.1.13).

use super::Namespace;
use super::controller::Controller;
use super::spec::identify::{IdentifyController, IdentifyNvmController, cns};
use super::spec::namespace::{Identifier, IdentifyNamespace, controller_list, identifiers, namespace_list};
use super::spec::virtualization::{PrimaryCapabilities, SecondaryController, SecondaryControllers};
use super::spec::{Opcode, Sqe};
use crate::{Backing, ErrorKind, Result};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Lists that one after another a controller is asked for: more namespaces than any has.
const LISTS: usize = 1024;
/// Entries of a list of controllers.
const CONTROLLERS: usize = 2047;
/// Entries of a list of secondary controllers.
const SECONDARIES: usize = 127;

impl<B: Backing> Controller<B> {
    /// What it is now.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn identify(&self) -> Result<Box<IdentifyController>> {
        self.ask("Identify Controller", cns::CONTROLLER, 0, 0)
    }

    /// What limits it has with the NVM command set, beside the length of a transfer.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); controllers before 2.0 may refuse.
    pub fn identify_nvm(&self) -> Result<Box<IdentifyNvmController>> {
        self.ask("Identify Controller, NVM", cns::CONTROLLER_OF_SET, 0, 0)
    }

    /// Namespaces that are attached to it.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn namespaces(&self) -> Result<Vec<u32>> {
        self.namespace_lists("Identify: active namespaces", cns::ACTIVE_NAMESPACES)
    }

    /// Namespaces of the subsystem, attached to it or not.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without namespace management may refuse.
    pub fn allocated_namespaces(&self) -> Result<Vec<u32>> {
        self.namespace_lists("Identify: allocated namespaces", cns::ALLOCATED_NAMESPACES)
    }

    /// What a namespace that is attached to it is, as commands need it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for a format that is none, or a namespace of another command set; as
    /// [`execute`](Self::execute).
    pub fn namespace(&self, id: u32) -> Result<Namespace> {
        // If it changes while it is asked for, that is after this.
        let changes = self.shared.epoch.current().changes();
        let identity = self.identify_namespace(id)?;
        Namespace::new(id, &identity, changes).map_err(|kind| self.failed("Identify Namespace", kind))
    }

    /// All that is said of a namespace that is attached to it.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn identify_namespace(&self, id: u32) -> Result<Box<IdentifyNamespace>> {
        self.ask("Identify Namespace", cns::NAMESPACE, id, 0)
    }

    /// All that is said of a namespace of the subsystem; zeros of one that there is not.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without namespace management may refuse.
    pub fn identify_allocated(&self, id: u32) -> Result<Box<IdentifyNamespace>> {
        self.ask("Identify: allocated namespace", cns::ALLOCATED_NAMESPACE, id, 0)
    }

    /// What a namespace is known by.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); controllers before 1.3 may refuse.
    pub fn identifiers(&self, id: u32) -> Result<Vec<Identifier>> {
        let step = "Identify: namespace descriptors";
        let bytes = self.read(step, identify(cns::NAMESPACE_DESCRIPTORS, id, 0))?;
        Ok(identifiers(&bytes))
    }

    /// Controllers of the subsystem.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller that is alone may refuse.
    pub fn controllers(&self) -> Result<Vec<u16>> {
        self.controller_lists("Identify: controllers", cns::CONTROLLERS, 0)
    }

    /// Controllers that a namespace is attached to.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without namespace management may refuse.
    pub fn attached_controllers(&self, namespace: u32) -> Result<Vec<u16>> {
        self.controller_lists("Identify: attached controllers", cns::ATTACHED_CONTROLLERS, namespace)
    }

    /// What it can give to its secondary controllers.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without virtualization management refuses.
    pub fn primary_capabilities(&self) -> Result<Box<PrimaryCapabilities>> {
        self.ask(
            "Identify: primary controller capabilities",
            cns::PRIMARY_CAPABILITIES,
            0,
            0,
        )
    }

    /// Its secondary controllers, by identifier.
    ///
    /// # Errors
    ///
    /// As [`primary_capabilities`](Self::primary_capabilities).
    pub fn secondary_controllers(&self) -> Result<Vec<SecondaryController>> {
        let step = "Identify: secondary controllers";
        let mut controllers = Vec::new();
        let mut from = 0;
        for _ in 0..LISTS {
            let list: Box<SecondaryControllers> = self.ask(step, cns::SECONDARY_CONTROLLERS, 0, from)?;
            let ascending = list.list().iter().filter(|controller| controller.scid.get() >= from);
            controllers.extend(ascending);
            let last = list.list().last().map_or(0, |last| last.scid.get());
            match last.checked_add(1) {
                Some(next) if list.list().len() == SECONDARIES && next > from => from = next,
                _ => break,
            }
        }
        Ok(controllers)
    }

    fn namespace_lists(&self, step: &'static str, cns: u8) -> Result<Vec<u32>> {
        let mut namespaces = Vec::new();
        for _ in 0..LISTS {
            let last = namespaces.last().copied().unwrap_or(0);
            // FFFFFFFEh and above are no namespaces to go on from (NVM §4.1.5, Base §5.1.13.2.2).
            if last >= u32::MAX - 1 {
                break;
            }
            let bytes = self.read(step, identify(cns, last, 0))?;
            let list = <[U32]>::ref_from_bytes(&bytes).unwrap_or_default();
            let more = namespace_list(list, last);
            let is_full = more.len() == list.len();
            namespaces.extend(more);
            if !is_full {
                break;
            }
        }
        Ok(namespaces)
    }

    fn controller_lists(&self, step: &'static str, cns: u8, namespace: u32) -> Result<Vec<u16>> {
        let mut controllers: Vec<u16> = Vec::new();
        let mut from = 0;
        for _ in 0..LISTS {
            let bytes = self.read(step, identify(cns, namespace, from))?;
            let list = controller_list(<[U16]>::ref_from_bytes(&bytes).unwrap_or_default());
            controllers.extend(list.iter().filter(|id| **id >= from));
            match list.last().and_then(|last| last.checked_add(1)) {
                Some(next) if list.len() == CONTROLLERS && next > from => from = next,
                _ => break,
            }
        }
        Ok(controllers)
    }

    fn ask<T: FromBytes + KnownLayout + Immutable>(
        &self,
        step: &'static str,
        cns: u8,
        namespace: u32,
        controller: u16,
    ) -> Result<Box<T>> {
        let bytes = self.read(step, identify(cns, namespace, controller))?;
        let short = |_| self.failed(step, ErrorKind::Failed("not a page".into()));
        T::read_from_bytes(&bytes).map(Box::new).map_err(short)
    }
}

fn identify(cns: u8, namespace: u32, controller: u16) -> Sqe {
    Sqe::new(Opcode::IDENTIFY, namespace).with_cdw10(u32::from(cns) | u32::from(controller) << 16)
}

impl Namespace {
    /// What commands need to know of a namespace that was read after `changes` changes.
    fn new(id: u32, identity: &IdentifyNamespace, changes: u32) -> Result<Self, ErrorKind> {
        if identity.nsze.get() == 0 {
            return Err(ErrorKind::Invalid(format!("there is no namespace {id} here").into()));
        }
        let unknown = || ErrorKind::Unsupported("a namespace without an LBA format of 512 bytes or more".into());
        let format = identity.format().ok_or_else(unknown)?;
        Ok(Self {
            id,
            blocks: identity.nsze.get(),
            lba_bytes: format.block_bytes().ok_or_else(unknown)?,
            metadata_bytes: format.ms.get(),
            is_extended: identity.is_extended(),
            changes,
        })
    }
}
