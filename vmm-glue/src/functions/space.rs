//! Where the guest's functions do DMA: an address space with all of the guest's memory in it, as long as there are functions.
//!
//! With iommufd the space stays when the last function goes. A container of type1 forgets everything with its last group: the space is made anew for
//! the next one.

use super::{Given, Opened};
use crate::dma::{self, Dma, Pin};
use crate::memory::GuestMemory;
use crate::{Error, ErrorKind, Result};
use ::pci::Bdf;
use iommu::space::{AddressSpace, Attached};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio_core::iommufd::Iommufd;
use vfio_core::{AttachedGroup, BoundDevice, Container, Group, IommuType, KvmFile, KvmVfio};

/// By which interface of the kernel the guest has its functions.
#[derive(Debug, Clone)]
pub enum Backend {
    /// An iommufd, and a character device for each function.
    Iommufd(Iommufd),
    /// A container, and the groups of the functions.
    Type1(Container),
}

/// What a function is opened from.
#[derive(Debug)]
pub enum File {
    /// Its own character device.
    Device(vfio_core::CdevFile),
    /// Its group.
    Group(Group),
    /// A group that another function of the guest has brought.
    SameGroup,
}

/// How guest memory is given to functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaOptions {
    /// How much of it is pinned.
    pub pin: Pin,
    /// How many threads make it present.
    pub threads: NonZeroUsize,
}

/// The address space of a guest.
#[derive(Debug)]
pub(super) struct Space {
    // Fields drop in this order: memory is unmapped before the groups go.
    dma: Option<Dma>,
    space: Option<AddressSpace>,
    groups: Vec<Joined>,
    backend: Backend,
    kvm: Option<KvmVfio>,
    memory: GuestMemory,
    options: DmaOptions,
    status: Arc<Status>,
}

/// What nobody waits for the space to know, or to say.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// All of the guest's memory is pinned, or about to be.
    pub(super) is_pinned: AtomicBool,
    /// The machine has ended: no memory is mapped any more.
    pub(super) is_ended: AtomicBool,
}

/// A group in the container.
#[derive(Debug)]
struct Joined {
    // Fields drop in this order.
    _kvm: Option<KvmFile>,
    group: AttachedGroup,
    /// Tells it from the others: what the kernel calls it may not be known.
    number: u64,
    /// Of how many functions.
    users: usize,
}

/// A function in the space.
#[derive(Debug)]
pub(super) struct Member {
    // Fields drop in this order. KVM holds the device open too.
    kvm: Option<KvmFile>,
    /// Not of one that asks for memory itself.
    attached: Option<Attached>,
    device: BoundDevice,
    /// The number of its group, in a container.
    group: Option<u64>,
}

impl Member {
    pub(super) fn device(&self) -> &BoundDevice {
        &self.device
    }
}

impl Space {
    pub(super) fn new(backend: Backend, kvm: Option<KvmVfio>, memory: GuestMemory, options: DmaOptions) -> Self {
        Self {
            dma: None,
            space: None,
            groups: Vec::new(),
            backend,
            kvm,
            memory,
            options,
            status: Arc::default(),
        }
    }

    pub(super) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Where functions reach one another; `None` where memory comes on demand, and before there is a function.
    pub(super) fn peers(&self) -> Option<&AddressSpace> {
        self.space.as_ref()
    }

    /// Answers page requests from now on, where memory comes on demand.
    pub(super) fn serve_pages(&self) -> Result<()> {
        self.dma.as_ref().map_or(Ok(()), Dma::serve)
    }

    /// Takes in the functions of a slot, and lets go of all if one fails.
    pub(super) fn open_all(&mut self, opened: Vec<Opened>) -> Result<Vec<(Bdf, Member)>> {
        if opened.is_empty() || opened.len() > 8 {
            return Err(Error::new(
                "assign",
                ErrorKind::Invalid("a slot holds 1 to 8 functions"),
            ));
        }
        let mut members = Vec::new();
        for opened in opened {
            let bdf = opened.bdf;
            match self.add(opened) {
                Ok(member) => members.push((bdf, member)),
                Err(error) => {
                    self.close(members);
                    return Err(error);
                }
            }
        }
        Ok(members)
    }

    /// The groups that functions were opened through.
    pub(super) fn groups_of(&self, members: &[(Bdf, Member)]) -> Vec<Group> {
        let is_theirs = |joined: &&Joined| members.iter().any(|(_, member)| member.group == Some(joined.number));
        let groups = self.groups.iter().filter(is_theirs);
        groups.map(|joined| joined.group.group().clone()).collect()
    }

    pub(super) fn close(&mut self, members: Vec<(Bdf, Member)>) {
        for (bdf, member) in members {
            if let Err(error) = self.remove(member) {
                tracing::error!(%error, %bdf, "a function was not let go of as it should be");
            }
        }
    }

    /// Takes functions from the guest for good.
    pub(super) fn end(&mut self, given: Vec<Given>) -> Result<()> {
        let mut ended = Ok(());
        for given in given {
            let Given {
                watched,
                function,
                member,
                ..
            } = given;
            drop(watched);
            ended = ended.and(function.stop());
            // A processor may still be in it, but it holds nothing any more.
            drop(function);
            ended = ended.and(self.remove(member));
        }
        ended
    }

    /// Takes in a function, which is bound or opened here. It finds the guest's memory after [`map`](Self::map).
    fn add(&mut self, opened: Opened) -> Result<Member> {
        let bdf = opened.bdf;
        let added = match (self.backend.clone(), opened.file) {
            (Backend::Iommufd(iommufd), File::Device(file)) => {
                // Its driver may want to know the virtual machine when it is bound.
                let kvm = self.kvm.as_ref().map(|kvm| kvm.add_cdev(&file)).transpose()?;
                let device = file.bind(&iommufd, opened.token)?;
                self.attach(&iommufd, device, kvm)
            }
            (Backend::Type1(container), File::Group(group)) => {
                self.join(&container, &group)?;
                self.open(bdf, opened.token)
            }
            (Backend::Type1(_), File::SameGroup) => self.open(bdf, opened.token),
            (Backend::Iommufd(_), _) => Err(Error::new(
                "assign",
                ErrorKind::Invalid("iommufd needs the function's character device"),
            )),
            (Backend::Type1(_), File::Device(_)) => Err(Error::new(
                "assign",
                ErrorKind::Invalid("type1 needs the function's group"),
            )),
        };
        let empty = self.leave_empty_groups();
        let member = added.map_err(|error| if error.device.is_none() { error.on(bdf) } else { error })?;
        empty.map(|()| member)
    }

    /// Gives all functions the guest's memory, if they do not have it yet.
    pub(super) fn map(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        if let (None, Some(space)) = (&self.dma, &self.space) {
            self.status.is_pinned.store(true, Ordering::Release);
            let mut tell = |done, total| {
                progress(done, total);
                match self.status.is_ended.load(Ordering::Acquire) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let mapped = Dma::pinned(space, self.memory.ram(), self.options.threads, &mut tell);
            self.status.is_pinned.store(mapped.is_ok(), Ordering::Release);
            self.dma = Some(mapped?);
        }
        Ok(())
    }

    /// Lets a function go, which nobody else holds any more.
    fn remove(&mut self, member: Member) -> Result<()> {
        let Member {
            kvm,
            attached,
            device,
            group,
        } = member;
        let forgotten = kvm.map_or(Ok(()), KvmFile::del);
        let detached = match (attached, &self.dma) {
            (Some(attached), _) => attached.detach().map_err(Error::from),
            (None, Some(dma)) => dma.detach(&device),
            (None, None) => Ok(()),
        };
        let joined = self.groups.iter_mut().find(|joined| Some(joined.number) == group);
        if let Some(joined) = joined {
            joined.users = joined.users.saturating_sub(1);
        }
        drop(device);
        let left = self.leave_empty_groups();
        forgotten.map_err(Error::from).and(detached).and(left)
    }

    fn attach(&mut self, iommufd: &Iommufd, device: BoundDevice, kvm: Option<KvmFile>) -> Result<Member> {
        let attached = match (self.options.pin, &self.dma) {
            (Pin::All, _) => {
                let space = match &self.space {
                    Some(space) => space,
                    None => self.space.insert(AddressSpace::iommufd(iommufd)?),
                };
                Some(space.attach(&device)?)
            }
            (_, Some(dma)) => {
                dma.attach(&device)?;
                None
            }
            (pin, None) => {
                let devices = std::slice::from_ref(&device);
                self.dma = Some(Dma::on_demand(devices, self.memory.ram(), pin)?);
                None
            }
        };
        Ok(Member {
            kvm,
            attached,
            device,
            group: None,
        })
    }

    fn join(&mut self, container: &Container, group: &Group) -> Result<()> {
        if self.options.pin != Pin::All {
            return Err(Error::new(
                "map guest memory for devices",
                ErrorKind::Unsupported(dma::ON_TYPE1),
            ));
        }
        let number = self.groups.last().map_or(0, |joined| joined.number + 1);
        let kvm = self.kvm.as_ref().map(|kvm| kvm.add_group(group)).transpose()?;
        let group = container.add(group)?;
        if self.space.is_none() {
            container.set_iommu(IommuType::Type1v2)?;
            self.space = Some(AddressSpace::type1(container.clone())?);
        }
        self.groups.push(Joined {
            _kvm: kvm,
            group,
            number,
            users: 0,
        });
        Ok(())
    }

    /// Opens a function of one of the groups.
    fn open(&mut self, bdf: Bdf, token: Option<vfio_core::VfToken>) -> Result<Member> {
        let space = self.space.as_ref();
        let space = space.ok_or_else(|| Error::new("assign", ErrorKind::Invalid("the guest has no group yet")))?;
        let mut last = None;
        for joined in &mut self.groups {
            match joined.group.device(bdf, token) {
                Ok(device) => {
                    let attached = Some(space.attach(&device)?);
                    joined.users += 1;
                    return Ok(Member {
                        kvm: None,
                        attached,
                        device,
                        group: Some(joined.number),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        let none = || {
            Error::new(
                "assign",
                ErrorKind::Invalid("none of the guest's groups has this function"),
            )
        };
        Err(last.map_or_else(none, Error::from))
    }

    /// Lets go of the groups of which no function is left; with the last one, of the space.
    fn leave_empty_groups(&mut self) -> Result<()> {
        if !matches!(self.backend, Backend::Type1(_)) {
            return Ok(());
        }
        if self.groups.iter().all(|joined| joined.users == 0) {
            self.dma = None;
            self.status.is_pinned.store(false, Ordering::Release);
            self.space = None;
        }
        self.groups.retain(|joined| joined.users != 0);
        Ok(())
    }
}
