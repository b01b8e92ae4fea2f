//! What a virtual machine does by default for the sake of older software.

use super::failed;
use crate::Result;
use kvm_bindings::{KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap, kvm_reinject_control};
use kvm_ioctls::{Error, VmFd};
use std::ffi::c_ulong;
use vmm_sys_util::ioctl::{ioctl_expr, ioctl_with_ref};

/// `KVM_REINJECT_CONTROL`, `_IO(KVMIO, 0x71)`.
const REINJECT_CONTROL: c_ulong = ioctl_expr(vmm_sys_util::ioctl::_IOC_NONE, kvm_bindings::KVMIO, 0x71, 0);

/// The PIT does not make up for ticks that a guest missed: it would keep processors from injecting interrupts by themselves.
pub(super) fn refuse_reinjection(vm: &VmFd) -> Result<()> {
    let control = kvm_reinject_control::default();
    // SAFETY: the number goes with this structure, which the kernel only reads.
    let set = unsafe { ioctl_with_ref(vm, REINJECT_CONTROL, &control) };
    if set == 0 {
        return Ok(());
    }
    Err(failed("KVM_REINJECT_CONTROL", Error::last()))
}

/// A slot that goes leaves the guest's page tables for all others as they are, where KVM can.
pub(super) fn keep_other_slots(vm: &VmFd) -> Result<()> {
    let quirks = vm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into());
    if u64::try_from(quirks).unwrap_or(0) & u64::from(KVM_X86_QUIRK_SLOT_ZAP_ALL) == 0 {
        return Ok(());
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_DISABLE_QUIRKS2,
        ..kvm_enable_cap::default()
    };
    if let Some(quirks) = cap.args.first_mut() {
        *quirks = KVM_X86_QUIRK_SLOT_ZAP_ALL.into();
    }
    vm.enable_cap(&cap)
        .map_err(|error| failed("KVM_ENABLE_CAP KVM_CAP_DISABLE_QUIRKS2", error))
}
