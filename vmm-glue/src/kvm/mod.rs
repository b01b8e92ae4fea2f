//! The machine of the kernel: `/dev/kvm`, the virtual machine, its processors, interrupts and memory slots.
//!
//! Follows `Documentation/virt/kvm/api.rst` and `include/uapi/linux/kvm.h`. All `unsafe` code of this crate is below this module: what
//! `kvm-ioctls` asks its callers to vouch for.
#![allow(
    unsafe_code,
    reason = "the one place of the crate for it: every block states its proof"
)]

pub(crate) mod cpuid;
mod descriptor;
mod irqs;
pub(crate) mod kick;
pub(crate) mod power_on;
mod routing;
mod slots;
mod tune;
pub(crate) mod vcpu;
pub(crate) mod view;

pub use irqs::{Edge, Irqs};
pub use slots::Slots;

use crate::{Error, ErrorKind, Result};
use irqs::Chips;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_pit_config};
use kvm_ioctls::{Cap, VmFd};
use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use vfio_core::KvmVfio;

/// A page for Intel processors without unrestricted guests.
const IDENTITY_MAP: u64 = 0xFFFB_C000;
/// Three pages, for the same.
const TSS: usize = 0xFFFB_D000;

/// A message-signalled interrupt names its destination in 8 bits, of which all ones stand for everyone; the I/O APIC has a number, too.
const MOST_VCPUS: u32 = 254;

/// `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens the device node.
    ///
    /// # Errors
    ///
    /// When it is not there or may not be opened; as [`from_fd`](Self::from_fd).
    pub fn open(path: &Path) -> Result<Self> {
        let step = || format!("open {}", path.display());
        let name = CString::new(path.as_os_str().as_bytes());
        let name = name.map_err(|_nul| Error::new(step(), ErrorKind::Invalid("a path has no NUL")))?;
        let fd = kvm_ioctls::Kvm::new_with_path(name).map_err(|error| failed(step(), error))?;
        Self::checked(fd)
    }

    /// Takes over an open device node.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for a descriptor that is not KVM's, and a kernel without what a guest needs here.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Self::checked(descriptor::adopt(fd))
    }

    fn checked(fd: kvm_ioctls::Kvm) -> Result<Self> {
        let unsupported = |what| Err(Error::new("KVM_CHECK_EXTENSION", ErrorKind::Unsupported(what)));
        if fd.get_api_version() != 12 {
            return unsupported("KVM_GET_API_VERSION gives no 12: this is no /dev/kvm");
        }
        for (cap, what) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !fd.check_extension(cap) {
                return unsupported(what);
            }
        }
        Ok(Self { fd })
    }

    /// A virtual machine with interrupt controllers: local APICs, an I/O APIC of 24 pins, a PIT.
    ///
    /// # Errors
    ///
    /// KVM's own.
    #[doc(alias = "KVM_CREATE_VM")]
    pub fn create_vm(&self) -> Result<Vm> {
        let vm = self.fd.create_vm().map_err(|error| failed("KVM_CREATE_VM", error))?;
        vm.set_identity_map_address(IDENTITY_MAP)
            .map_err(|error| failed("KVM_SET_IDENTITY_MAP_ADDR", error))?;
        vm.set_tss_address(TSS)
            .map_err(|error| failed("KVM_SET_TSS_ADDR", error))?;
        vm.create_irq_chip()
            .map_err(|error| failed("KVM_CREATE_IRQCHIP", error))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..kvm_pit_config::default()
        };
        vm.create_pit2(pit).map_err(|error| failed("KVM_CREATE_PIT2", error))?;
        tune::refuse_reinjection(&vm)?;
        tune::keep_other_slots(&vm)?;
        let vm = Arc::new(vm);
        let cpuid = self
            .fd
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| failed("KVM_GET_SUPPORTED_CPUID", error))?;
        let cpuid = cpuid::Supported::new(
            cpuid.as_slice(),
            self.fd.check_extension(Cap::TscDeadlineTimer),
            cpuid::is_emulated(),
        );
        let msrs = self
            .fd
            .get_msr_index_list()
            .map_err(|error| failed("KVM_GET_MSR_INDEX_LIST", error))?;
        Ok(Vm {
            irqs: Irqs::new(Arc::clone(&vm), self.fd.check_extension_int(Cap::IrqRouting))?,
            chips: Chips::of(&vm)?,
            slots: Slots::new(Arc::clone(&vm), self.fd.get_nr_memslots()),
            max_vcpus: self.fd.get_max_vcpus(),
            msrs: msrs.as_slice().into(),
            cpuid,
            vm,
        })
    }
}

/// A virtual machine. Cheap to clone; it is gone with its last clone, slot, route and processor.
#[derive(Clone)]
pub struct Vm {
    vm: Arc<VmFd>,
    irqs: Irqs,
    slots: Slots,
    chips: Chips,
    cpuid: cpuid::Supported,
    msrs: Arc<[u32]>,
    max_vcpus: usize,
}

impl Vm {
    /// Where its interrupts come from.
    #[must_use]
    pub fn irqs(&self) -> &Irqs {
        &self.irqs
    }

    /// Where its memory comes from.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Bits of a guest-physical address (CPUID `8000_0008h`).
    #[must_use]
    pub fn physical_bits(&self) -> u32 {
        self.cpuid.physical_bits()
    }

    /// How many processors it may have.
    #[must_use]
    pub fn max_vcpus(&self) -> u32 {
        u32::try_from(self.max_vcpus).unwrap_or(u32::MAX).min(MOST_VCPUS)
    }

    /// KVM's VFIO device, of which there is one: to be made once.
    ///
    /// # Errors
    ///
    /// EEXIST for the second; ENODEV for a kernel without `CONFIG_KVM_VFIO`.
    #[doc(alias = "KVM_DEV_TYPE_VFIO")]
    pub fn vfio(&self) -> Result<KvmVfio> {
        let mut device = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
            ..kvm_create_device::default()
        };
        let created = self.vm.create_device(&mut device);
        let device = created.map_err(|error| failed("KVM_CREATE_DEVICE", error))?;
        let fd =
            descriptor::duplicate(&device).map_err(|error| Error::new("KVM_CREATE_DEVICE", ErrorKind::Io(error)))?;
        Ok(KvmVfio::from_fd(fd))
    }

    /// I/O APIC and PIT as after power-on.
    pub(crate) fn reset(&self) -> Result<()> {
        self.chips.restore(&self.vm)
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("irqs", &self.irqs)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// A call of KVM that did not succeed.
fn failed(step: impl Into<std::borrow::Cow<'static, str>>, error: kvm_ioctls::Error) -> Error {
    Error::new(step, ErrorKind::Io(error.into()))
}
