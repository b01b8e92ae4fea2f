//! The registers of a processor after power-on, and at the entry of a kernel.

use super::failed;
use crate::Result;
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 64-bit mode (`Documentation/arch/x86/boot.rst`, "64-bit boot protocol").
    Linux {
        /// The first instruction.
        rip: u64,
        /// The zero page.
        zero_page: u64,
        /// Page tables that map what is used to itself.
        page_tables: u64,
        /// The descriptors that [`gdt`] gives, in memory.
        gdt: u64,
    },
    /// In 32-bit mode without paging (`Documentation/arch/x86/pvh.rst` of Xen).
    Pvh {
        /// The first instruction.
        rip: u64,
        /// `struct hvm_start_info`.
        start_info: u64,
    },
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit that is always set.
const RFLAGS: u64 = 1 << 1;

const IA32_TSC: u32 = 0x10;
const IA32_MTRR_DEF_TYPE: u32 = 0x2FF;
/// Memory is write-back where nothing else is said; enabled.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const EXT_INT: u32 = 0x7 << 8;
const NMI: u32 = 0x4 << 8;

/// All that a reset gives back to a processor.
pub(super) struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

impl PowerOn {
    /// As they are now. Of `msrs` those that can be read.
    pub(super) fn of(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self> {
        Ok(Self {
            regs: vcpu.get_regs().map_err(|error| failed("KVM_GET_REGS", error))?,
            sregs: vcpu.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))?,
            fpu: vcpu.get_fpu().map_err(|error| failed("KVM_GET_FPU", error))?,
            // A processor without XSAVE has none.
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu
                .get_debug_regs()
                .map_err(|error| failed("KVM_GET_DEBUGREGS", error))?,
            lapic: vcpu.get_lapic().map_err(|error| failed("KVM_GET_LAPIC", error))?,
            events: vcpu
                .get_vcpu_events()
                .map_err(|error| failed("KVM_GET_VCPU_EVENTS", error))?,
            state: vcpu.get_mp_state().map_err(|error| failed("KVM_GET_MP_STATE", error))?,
            msrs: msrs.iter().filter_map(|index| read_msr(vcpu, *index)).collect(),
        })
    }

    pub(super) fn restore(&self, vcpu: &VcpuFd) -> Result<()> {
        // The APIC's mode is in the special registers.
        vcpu.set_sregs(&self.sregs)
            .map_err(|error| failed("KVM_SET_SREGS", error))?;
        vcpu.set_lapic(&self.lapic)
            .map_err(|error| failed("KVM_SET_LAPIC", error))?;
        vcpu.set_regs(&self.regs)
            .map_err(|error| failed("KVM_SET_REGS", error))?;
        vcpu.set_fpu(&self.fpu).map_err(|error| failed("KVM_SET_FPU", error))?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).map_err(|error| failed("KVM_SET_XCRS", error))?;
        }
        vcpu.set_debug_regs(&self.debug)
            .map_err(|error| failed("KVM_SET_DEBUGREGS", error))?;
        for msr in &self.msrs {
            write_msr(vcpu, *msr)?;
        }
        vcpu.set_vcpu_events(&self.events)
            .map_err(|error| failed("KVM_SET_VCPU_EVENTS", error))?;
        vcpu.set_mp_state(self.state)
            .map_err(|error| failed("KVM_SET_MP_STATE", error))
    }
}

/// What a firmware leaves behind on every processor.
pub(super) fn firmware(vcpu: &VcpuFd) -> Result<()> {
    let def_type = kvm_msr_entry {
        index: IA32_MTRR_DEF_TYPE,
        data: MTRR_WRITE_BACK,
        ..kvm_msr_entry::default()
    };
    write_msr(vcpu, def_type)?;
    let mut lapic = vcpu.get_lapic().map_err(|error| failed("KVM_GET_LAPIC", error))?;
    for (register, mode) in [(APIC_LVT_LINT0, EXT_INT), (APIC_LVT_LINT1, NMI)] {
        for (place, byte) in lapic.regs.iter_mut().skip(register).zip(mode.to_le_bytes()) {
            *place = std::ffi::c_char::from_ne_bytes([byte]);
        }
    }
    vcpu.set_lapic(&lapic).map_err(|error| failed("KVM_SET_LAPIC", error))
}

/// The one that boots begins at the entry of the kernel.
pub(super) fn enter(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let mut sregs = vcpu.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))?;
    let mut regs = kvm_regs {
        rflags: RFLAGS,
        ..kvm_regs::default()
    };
    let is_long = matches!(entry, Entry::Linux { .. });
    let (code, data) = (segment(CODE, is_long), segment(DATA, false));
    sregs.cs = code;
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    match entry {
        Entry::Linux {
            rip,
            zero_page,
            page_tables,
            gdt,
        } => {
            (regs.rip, regs.rsi) = (rip, zero_page);
            sregs.gdt.base = gdt;
            sregs.gdt.limit = GDT_LIMIT;
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = page_tables;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
        Entry::Pvh { rip, start_info } => (regs.rip, regs.rbx) = (rip, start_info),
    }
    vcpu.set_sregs(&sregs).map_err(|error| failed("KVM_SET_SREGS", error))?;
    vcpu.set_regs(&regs).map_err(|error| failed("KVM_SET_REGS", error))
}

/// `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const GDT_LIMIT: u16 = 4 * 8 - 1;

/// The descriptors that belong to the segments of [`Entry::Linux`]: flat, up to 4 GiB (Intel SDM volume 3 §3.4.5).
pub(crate) fn gdt() -> [u64; 4] {
    [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF]
}

fn segment(selector: u16, is_long: bool) -> kvm_segment {
    let is_code = selector == CODE;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        // Accessed, and readable code or writable data.
        type_: if is_code { 0xB } else { 0x3 },
        present: 1,
        db: u8::from(!is_long),
        s: 1,
        l: u8::from(is_long),
        g: 1,
        ..kvm_segment::default()
    }
}

/// `None` of one that KVM lists and this processor has not.
fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<kvm_msr_entry> {
    let entry = kvm_msr_entry {
        index,
        ..kvm_msr_entry::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    let count = vcpu.get_msrs(&mut msrs).ok()?;
    let mut read = msrs.as_slice().first().copied().filter(|_| count == 1)?;
    // Time begins anew; written as 0 to all, KVM keeps the processors in step.
    if index == IA32_TSC {
        read.data = 0;
    }
    Some(read)
}

fn write_msr(vcpu: &VcpuFd, entry: kvm_msr_entry) -> Result<()> {
    let step = || format!("KVM_SET_MSRS {:#x}", entry.index);
    let Ok(msrs) = Msrs::from_entries(&[entry]) else {
        return Ok(());
    };
    let written = vcpu.set_msrs(&msrs).map_err(|error| failed(step(), error))?;
    if written == 0 {
        // One that tells of features and cannot be changed: it is what it was.
        tracing::debug!(index = entry.index, "KVM does not let this register be set");
    }
    Ok(())
}

impl std::fmt::Debug for PowerOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerOn").finish_non_exhaustive()
    }
}
