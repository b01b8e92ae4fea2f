//! `VFIO_DEVICE_FEATURE`: what a device offers beyond regions and interrupts, and the features that are one call each: VF token, low
//! power, dma-buf export. Migration and DMA logging have modules of their own.
//!
//! Follows `include/uapi/linux/vfio.h`.

use crate::{BoundDevice, Error, ErrorKind, EventFd, RegionIndex, VfToken};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use vfio_bindings::bindings::vfio::{VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET};

/// The number of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Feature(pub u16);

impl Feature {
    /// The VF token of a PF.
    pub const PCI_VF_TOKEN: Self = Self(0);
    /// Live migration.
    pub const MIGRATION: Self = Self(1);
    /// The migration state.
    pub const MIG_DEVICE_STATE: Self = Self(2);
    /// Low power until an access.
    pub const LOW_POWER_ENTRY: Self = Self(3);
    /// Low power once, with an event at its end.
    pub const LOW_POWER_ENTRY_WITH_WAKEUP: Self = Self(4);
    /// The end of low power.
    pub const LOW_POWER_EXIT: Self = Self(5);
    /// Starting the log of DMA writes.
    pub const DMA_LOGGING_START: Self = Self(6);
    /// Stopping it.
    pub const DMA_LOGGING_STOP: Self = Self(7);
    /// Reading it.
    pub const DMA_LOGGING_REPORT: Self = Self(8);
    /// How much there is to migrate.
    pub const MIG_DATA_SIZE: Self = Self(9);
    /// Bus mastering of a device on a CDX bus.
    pub const BUS_MASTER: Self = Self(10);
    /// dma-bufs of BARs.
    pub const DMA_BUF: Self = Self(11);
    /// Telling of new initial data while pre-copying (Linux 7.1).
    pub const MIG_PRECOPY_INFO_V2: Self = Self(12);
    /// Errors of s390 PCI functions (Linux 7.3).
    pub const ZPCI_ERROR: Self = Self(13);

    /// Every feature that has a name here.
    pub const ALL: [Self; 14] = [
        Self::PCI_VF_TOKEN,
        Self::MIGRATION,
        Self::MIG_DEVICE_STATE,
        Self::LOW_POWER_ENTRY,
        Self::LOW_POWER_ENTRY_WITH_WAKEUP,
        Self::LOW_POWER_EXIT,
        Self::DMA_LOGGING_START,
        Self::DMA_LOGGING_STOP,
        Self::DMA_LOGGING_REPORT,
        Self::MIG_DATA_SIZE,
        Self::BUS_MASTER,
        Self::DMA_BUF,
        Self::MIG_PRECOPY_INFO_V2,
        Self::ZPCI_ERROR,
    ];

    const NAMES: [&'static str; 14] = [
        "PCI_VF_TOKEN",
        "MIGRATION",
        "MIG_DEVICE_STATE",
        "LOW_POWER_ENTRY",
        "LOW_POWER_ENTRY_WITH_WAKEUP",
        "LOW_POWER_EXIT",
        "DMA_LOGGING_START",
        "DMA_LOGGING_STOP",
        "DMA_LOGGING_REPORT",
        "MIG_DATA_SIZE",
        "BUS_MASTER",
        "DMA_BUF",
        "MIG_PRECOPY_INFOv2",
        "ZPCI_ERROR",
    ];
}

impl fmt::Display for Feature {
    /// As the kernel spells it: `VFIO_DEVICE_FEATURE_DMA_BUF`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.get(usize::from(self.0)) {
            Some(name) => write!(f, "VFIO_DEVICE_FEATURE_{name}"),
            None => write!(f, "VFIO_DEVICE_FEATURE {}", self.0),
        }
    }
}

bitflags::bitflags! {
    /// How a feature is used.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct FeatureAccess: u32 {
        /// It can be read.
        const GET = VFIO_DEVICE_FEATURE_GET;
        /// It can be set.
        const SET = VFIO_DEVICE_FEATURE_SET;
    }
}

/// The features that a device offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeatureSet(BTreeMap<Feature, FeatureAccess>);

impl FeatureSet {
    /// Whether the device offers a feature.
    #[must_use]
    pub fn contains(&self, feature: Feature) -> bool {
        self.0.contains_key(&feature)
    }

    /// How a feature is used; `None` if the device does not offer it.
    #[must_use]
    pub fn access(&self, feature: Feature) -> Option<FeatureAccess> {
        self.0.get(&feature).copied()
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Feature, FeatureAccess)> {
        self.0.iter().map(|(feature, access)| (*feature, *access))
    }
}

impl BoundDevice {
    /// Asks for every feature whether the device offers it.
    ///
    /// # Errors
    ///
    /// When the device is gone. A feature that it does not offer is no error.
    #[doc(alias = "VFIO_DEVICE_FEATURE")]
    #[doc(alias = "VFIO_DEVICE_FEATURE_PROBE")]
    pub fn features(&self) -> Result<FeatureSet, Error> {
        let mut set = BTreeMap::new();
        for feature in Feature::ALL {
            if !self.probe(feature, 0)? {
                continue;
            }
            let mut access = FeatureAccess::empty();
            for way in [FeatureAccess::GET, FeatureAccess::SET] {
                access.set(way, self.probe(feature, way.bits())?);
            }
            set.insert(feature, access);
        }
        Ok(FeatureSet(set))
    }

    /// Sets the token that users of this PF's VFs must give. The kernel takes a new one also while VFs are in use; it concerns those who open
    /// one from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on anything but a PF with SR-IOV.
    #[doc(alias = "VFIO_DEVICE_FEATURE_PCI_VF_TOKEN")]
    pub fn set_vf_token(&self, token: VfToken) -> Result<(), Error> {
        self.set_feature(Feature::PCI_VF_TOKEN, &mut { token.0 })
    }

    /// Lets the device go into a low power state whenever nothing accesses it. Until [`low_power_exit`](Self::low_power_exit) its regions are not
    /// mapped: an access to a map would end the process with SIGBUS.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] while a [`RegionMap`](crate::RegionMap) of it exists; [`ErrorKind::Unsupported`] without runtime power management
    /// (`vfio_pci.disable_idle_d3`).
    #[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY")]
    pub fn low_power_entry(&self) -> Result<(), Error> {
        self.enter_low_power(Feature::LOW_POWER_ENTRY, &mut [])
    }

    /// Lets the device go into a low power state once; `event` is signalled when it was there and has left it. Its
    /// regions can be mapped again after [`low_power_exit`](Self::low_power_exit).
    ///
    /// # Errors
    ///
    /// As [`low_power_entry`](Self::low_power_entry).
    #[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP")]
    pub fn low_power_entry_with_wakeup(&self, event: &EventFd) -> Result<(), Error> {
        // struct vfio_device_low_power_entry_with_wakeup: the descriptor, and four bytes of nothing.
        let [a, b, c, d] = event.as_fd().as_raw_fd().to_ne_bytes();
        let mut data = [a, b, c, d, 0, 0, 0, 0];
        self.enter_low_power(Feature::LOW_POWER_ENTRY_WITH_WAKEUP, &mut data)
    }

    fn enter_low_power(&self, feature: Feature, data: &mut [u8]) -> Result<(), Error> {
        let mapped = || {
            self.failed(
                feature.to_string(),
                ErrorKind::Invalid("a region of the device is mapped"),
            )
        };
        self.claims()
            .sleep(|| {
                let entered = self.set_feature(feature, data);
                self.revoked();
                entered
            })
            .unwrap_or_else(|| Err(mapped()))
    }

    /// Keeps the device awake.
    ///
    /// # Errors
    ///
    /// As [`low_power_entry`](Self::low_power_entry).
    #[doc(alias = "VFIO_DEVICE_FEATURE_LOW_POWER_EXIT")]
    pub fn low_power_exit(&self) -> Result<(), Error> {
        self.claims()
            .wake(|| self.set_feature(Feature::LOW_POWER_EXIT, &mut []))
    }

    /// Exports parts of a BAR as a dma-buf, which an IOAS maps so that another device reaches them (peer to peer). Parts are of whole pages. The
    /// kernel takes access back while memory decoding is off, and during a reset; [`revocations`](Self::revocations) tells when to map it anew.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without `CONFIG_VFIO_PCI_DMABUF` (Linux 6.19) or where the platform has no peer-to-peer DMA; EINVAL for
    /// parts that are empty, off a page, or outside.
    #[doc(alias = "VFIO_DEVICE_FEATURE_DMA_BUF")]
    pub fn dma_buf(&self, region: RegionIndex, parts: &[Range<u64>]) -> Result<OwnedFd, Error> {
        let step = Feature::DMA_BUF.to_string();
        let failed = |kind| Error::new(step.clone(), kind).on(self.bdf());
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let mut data: Vec<u8> = [region.0, (OFlags::RDWR | OFlags::CLOEXEC).bits(), 0, count]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        for part in parts {
            let len = part.end.checked_sub(part.start).filter(|len| *len != 0);
            let len = len.ok_or_else(|| failed(ErrorKind::Invalid("a part of no bytes")))?;
            data.extend(part.start.to_ne_bytes());
            data.extend(len.to_ne_bytes());
        }
        let flags = VFIO_DEVICE_FEATURE_GET | u32::from(Feature::DMA_BUF.0);
        let exported = self.calls().feature_descriptor(flags, &mut data);
        exported.map_err(|errno| failed(kind(Feature::DMA_BUF, errno)))
    }

    /// Reads a feature.
    pub(crate) fn get_feature(&self, feature: Feature, data: &mut [u8]) -> Result<(), Error> {
        let result = self
            .calls()
            .feature(VFIO_DEVICE_FEATURE_GET | u32::from(feature.0), data);
        result.map_err(|errno| self.feature_failed(feature, errno))
    }

    /// Sets a feature.
    pub(crate) fn set_feature(&self, feature: Feature, data: &mut [u8]) -> Result<(), Error> {
        let result = self
            .calls()
            .feature(VFIO_DEVICE_FEATURE_SET | u32::from(feature.0), data);
        result.map_err(|errno| self.feature_failed(feature, errno))
    }

    pub(crate) fn feature_failed(&self, feature: Feature, errno: Errno) -> Error {
        Error::new(feature.to_string(), kind(feature, errno)).on(self.bdf())
    }

    fn probe(&self, feature: Feature, ways: u32) -> Result<bool, Error> {
        let flags = VFIO_DEVICE_FEATURE_PROBE | ways | u32::from(feature.0);
        match self.calls().feature(flags, &mut []) {
            Ok(()) => Ok(true),
            // EINVAL: a way that the feature does not have, and what some drivers say of a feature that they do not know.
            Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(self.feature_failed(feature, errno)),
        }
    }
}

/// What an errno of a feature means.
fn kind(feature: Feature, errno: Errno) -> ErrorKind {
    if !matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP) {
        return ErrorKind::from_errno(errno);
    }
    let since = match feature {
        Feature::PCI_VF_TOKEN => "a PF with SR-IOV on vfio-pci with enable_sriov=1",
        Feature::MIGRATION | Feature::MIG_DEVICE_STATE => {
            "Linux 5.18 with a driver that can migrate the device (mlx5-vfio-pci and others)"
        }
        Feature::MIG_DATA_SIZE => "Linux 6.2 with a driver that can migrate the device",
        Feature::MIG_PRECOPY_INFO_V2 => "Linux 7.1 with a driver that can migrate the device",
        Feature::DMA_LOGGING_START | Feature::DMA_LOGGING_STOP | Feature::DMA_LOGGING_REPORT => {
            "Linux 6.1 with a device that logs its DMA"
        }
        Feature::DMA_BUF => "Linux 6.19 with CONFIG_VFIO_PCI_DMABUF, where devices can reach one another",
        Feature::LOW_POWER_ENTRY | Feature::LOW_POWER_ENTRY_WITH_WAKEUP | Feature::LOW_POWER_EXIT => {
            "Linux 6.1 with vfio-pci and without disable_idle_d3"
        }
        _ => "another kind of device",
    };
    ErrorKind::Unsupported { errno, since }
}
