//! Opening a device and an address space in one call, by the best way that the machine offers.
//!
//! A character device and an iommufd come first, then a group in a container of type1, then a group in an iommufd that behaves like one.
//! A device that no IOMMU guards is never opened here.

use crate::group::viable;
use crate::space::{AddressSpace, Attached};
use crate::{Error, Result};
use pci::{Bdf, GroupId, Sysfs};
use vfio_core::iommufd::Iommufd;
use vfio_core::{
    Backend, BoundDevice, CdevFile, Container, ContainerPath, Errno, ErrorKind, IommuType, System, VfToken,
};

/// Opens a function that is bound to a VFIO driver, with a new address space that it is attached to. See [`OpenOptions::open`].
///
/// ```no_run
/// # use iommu::space::MapOptions;
/// let attached = iommu::open("0000:01:00.0".parse().unwrap())?;
/// let (device, space) = (attached.device(), attached.space());
/// let memory = std::sync::Arc::new(vfio_core::Memory::new(4096, Default::default())?);
/// let mapping = space.map(&memory, 0..4096, MapOptions::new(vfio_core::Access::READ))?;
/// device.config()?.set_bus_master(true)?;
/// # drop(mapping);
/// # Ok::<(), iommu::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`OpenOptions::open`].
pub fn open(bdf: Bdf) -> Result<Attached> {
    OpenOptions::default().open(bdf)
}

/// How devices are opened.
///
/// ```
/// use iommu::OpenOptions;
/// use vfio_core::fake::{Copier, Machine};
///
/// let [one, other] = ["0000:01:00.0".parse()?, "0000:02:00.0".parse()?];
/// let builder = Machine::builder().device(one, pci::GroupId(7), Copier::new());
/// let machine = builder.device(other, pci::GroupId(8), Copier::new()).build();
/// let directory = tempfile::tempdir()?;
/// let (system, sysfs) = machine.write_tree(directory.path())?;
///
/// let options = OpenOptions::new(&system, &sysfs);
/// let first = options.open(one)?;
/// let second = options.open_in(first.space(), other)?;
/// assert!(second.space().is_same(first.space()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions {
    system: System,
    sysfs: Sysfs,
    token: Option<VfToken>,
    only: Option<Backend>,
}

/// The ways that are tried, in this order. Whoever has version 1 of type1 has version 2.
const WAYS: [Backend; 3] = [Backend::Iommufd, Backend::Type1v2, Backend::CompatType1v2];

impl OpenOptions {
    /// On this machine, whose files are below `sysfs`.
    #[must_use]
    pub fn new(system: &System, sysfs: &Sysfs) -> Self {
        Self {
            system: system.clone(),
            sysfs: sysfs.clone(),
            token: None,
            only: None,
        }
    }

    /// With a token: for VFs whose PF is on vfio-pci, and for that PF; give none to any other function.
    #[must_use]
    pub fn token(self, token: VfToken) -> Self {
        let token = Some(token);
        Self { token, ..self }
    }

    /// By this way and no other. For [`open`](Self::open): [`open_in`](Self::open_in) goes the way of the space.
    #[must_use]
    pub fn only(self, way: Backend) -> Self {
        let only = Some(way);
        Self { only, ..self }
    }

    /// Opens a function that is bound to a VFIO driver, with a new address space that it is attached to. It decodes memory, but is no bus
    /// master: it does no DMA before it is told to ([`Config::set_bus_master`](vfio_core::Config::set_bus_master)).
    ///
    /// # Errors
    ///
    /// [`Error::NoWay`] with the reason for each way that was tried.
    pub fn open(&self, bdf: Bdf) -> Result<Attached> {
        let mut reasons = Vec::new();
        for way in self.only.as_ref().map_or(&WAYS[..], std::slice::from_ref) {
            match self.by(*way, bdf) {
                Ok(attached) => return Ok(attached),
                Err(error) => reasons.push((*way, error)),
            }
        }
        Err(Error::NoWay { device: bdf, reasons })
    }

    /// Opens one more function and attaches it to a space that others use. On type1 its group joins the container, unless a function of it
    /// was opened for the space before; the group stays there as long as the space.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) also for a group that was put into the container by other means; those of [`AddressSpace::attach`], of
    /// opening and of [`Container::add`].
    pub fn open_in(&self, space: &AddressSpace, bdf: Bdf) -> Result<Attached> {
        if let Some(ioas) = space.ioas() {
            return space.attach(&self.bind(ioas.iommufd(), bdf)?);
        }
        let container = space.container().ok_or(Error::Invalid("a space of no kernel"))?;
        let id = self.group_of(bdf)?;
        // Held throughout: a group is opened once.
        let mut groups = space.groups();
        if let Some(group) = groups.iter().find(|group| group.group().id() == Some(id)) {
            return space.attach(&group.device(bdf, self.token)?);
        }
        let group = container.add(&viable(&self.system, id)?)?;
        let attached = space.attach(&group.device(bdf, self.token)?)?;
        groups.push(group);
        Ok(attached)
    }

    fn by(&self, way: Backend, bdf: Bdf) -> Result<Attached> {
        match (way, way.container()) {
            (_, Some((path, kind))) => self.in_container(path, kind, bdf),
            (Backend::Iommufd, None) => {
                let iommufd = Iommufd::open(&self.system)?;
                let device = self.bind(&iommufd, bdf)?;
                AddressSpace::iommufd(&iommufd)?.attach(&device)
            }
            (_, None) => Err(Error::Unsupported(
                "a device without an IOMMU, for which vfio_core has constructors that are unsafe",
            )),
        }
    }

    fn bind(&self, iommufd: &Iommufd, bdf: Bdf) -> Result<BoundDevice> {
        let file = CdevFile::open_bdf(&self.system, &self.sysfs, bdf)?;
        Ok(file.bind(iommufd, self.token)?)
    }

    fn in_container(&self, path: ContainerPath, kind: IommuType, bdf: Bdf) -> Result<Attached> {
        let group = viable(&self.system, self.group_of(bdf)?)?;
        let group = Container::with_group(&self.system, path, kind, &group)?;
        let space = AddressSpace::type1(group.container().clone())?;
        let attached = space.attach(&group.device(bdf, self.token)?)?;
        space.groups().push(group);
        Ok(attached)
    }

    /// The group of a function, by `/sys`.
    fn group_of(&self, bdf: Bdf) -> Result<GroupId> {
        let path = format!("sys/bus/pci/devices/{bdf}/iommu_group");
        let name = self.sysfs.link_name(&path).ok();
        let id = name.and_then(|name| name.parse().ok()).map(GroupId);
        id.ok_or_else(|| {
            let kind = ErrorKind::NotFound(Errno::NOENT);
            vfio_core::Error::new(format!("read /{path}"), kind).on(bdf).into()
        })
    }
}

/// On the running machine.
impl Default for OpenOptions {
    fn default() -> Self {
        Self::new(&System::host(), &Sysfs::host())
    }
}
