//! A processor of the guest: made, run, and sent back to its beginning.

use super::power_on::{self, Entry, PowerOn};
use super::{Vm, failed};
use crate::bus::Bus;
use crate::machine::Plugged;
use crate::topology::Topology;
use crate::{Error, ErrorKind, Result};
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::borrow::Cow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use vfio_core::Errno;

/// Where the accesses of a processor go that leave the guest.
#[derive(Debug, Clone)]
pub(crate) struct Buses {
    /// I/O ports.
    pub ports: Arc<Bus>,
    /// Physical addresses.
    pub memory: Arc<Bus>,
    /// The functions of the host that have memory of the guest's.
    pub functions: Option<Arc<dyn Plugged>>,
}

/// Why the guest does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// For an access, which was answered.
    Answered,
    /// For a signal, or because it only now may.
    Signal,
    /// It has shut itself down (a triple fault), which resets the machine.
    Shutdown,
}

/// A processor.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    number: usize,
    power_on: PowerOn,
    /// How often in a row the host had no memory for it.
    faults: u32,
}

/// Others may take a slot away while it reaches for it, and give it back: that comes to an end. A host without memory does not.
const MOST_FAULTS: u32 = 16;

impl Vm {
    /// Makes the processor of this number.
    pub(crate) fn create_vcpu(&self, number: usize, topology: &Topology) -> Result<Vcpu> {
        let invalid = |why| Error::new("KVM_CREATE_VCPU", ErrorKind::Invalid(why));
        let place = topology.vcpus().get(number);
        let place = place.ok_or_else(|| invalid("there is no such processor"))?;
        let fd = self.vm.create_vcpu(place.apic_id.into());
        let fd = fd.map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        let cpuid = CpuId::from_entries(&self.cpuid.of(place, topology));
        let cpuid = cpuid.map_err(|_too_many| invalid("KVM tells more of the processor than it takes"))?;
        fd.set_cpuid2(&cpuid).map_err(|error| failed("KVM_SET_CPUID2", error))?;
        let power_on = PowerOn::of(&fd, &self.msrs)?;
        power_on::firmware(&fd)?;
        Ok(Vcpu {
            fd,
            number,
            power_on,
            faults: 0,
        })
    }
}

impl Vcpu {
    /// Lets it begin at the entry of a kernel.
    pub(crate) fn enter(&self, entry: Entry) -> Result<()> {
        power_on::enter(&self.fd, entry)
    }

    /// As after power-on.
    pub(crate) fn reset(&self) -> Result<()> {
        self.power_on.restore(&self.fd)?;
        power_on::firmware(&self.fd)
    }

    /// Runs the guest until one access, or a signal, and answers the access. Allocates nothing but for errors.
    pub(crate) fn run(&mut self, buses: &Buses) -> Result<Exit> {
        let exit = self.enter_guest(buses);
        // A signal is no progress.
        if !matches!(exit, Ok(Exit::Signal)) {
            self.faults = 0;
        }
        exit
    }

    fn enter_guest(&mut self, buses: &Buses) -> Result<Exit> {
        let stopped: Cow<'static, str> = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                let data = NonNull::from(data);
                self.ports_in(port, data, &buses.ports);
                return Ok(Exit::Answered);
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                let data = NonNull::from(data);
                self.ports_out(port, data, &buses.ports);
                return Ok(Exit::Answered);
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.memory.read(address, data);
                return Ok(Exit::Answered);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                buses.memory.write(address, data);
                return Ok(Exit::Answered);
            }
            Ok(VcpuExit::Intr) => return Ok(Exit::Signal),
            Err(error) => match std::io::Error::from(error).raw_os_error().map(Errno::from_raw_os_error) {
                // A signal, or a processor that was sent from waiting to running.
                Some(Errno::INTR | Errno::AGAIN) => return Ok(Exit::Signal),
                // Memory that a function does not give any more, most likely; another processor may have seen to it.
                Some(Errno::FAULT) => {
                    let is_silent = buses.functions.as_ref().is_some_and(|of| of.drop_silent_slots());
                    self.faults += 1;
                    if self.faults < MOST_FAULTS {
                        return Ok(Exit::Signal);
                    }
                    fault(is_silent).into()
                }
                _ => return Err(self.stopped(failed("KVM_RUN", error).kind)),
            },
            Ok(VcpuExit::Shutdown) => return Ok(Exit::Shutdown),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!("KVM_EXIT_FAIL_ENTRY: the host's processor {cpu} refuses to enter, reason {reason:#x}").into()
            }
            Ok(VcpuExit::InternalError) => self.internal_error().into(),
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                format!("KVM_EXIT_MEMORY_FAULT: no memory of the host behind address {gpa:#x}").into()
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => format!("KVM_EXIT_SYSTEM_EVENT {kind}").into(),
            Ok(VcpuExit::Unsupported(reason)) => format!("an unknown exit, reason {reason}").into(),
            Ok(other) => format!("an exit that nobody asked for: {other:?}").into(),
        };
        Err(self.stopped(ErrorKind::Stopped(stopped)))
    }

    /// Ends the instruction that the last access was part of, and nothing more: it would go on after a reset else.
    pub(crate) fn finish(&mut self, buses: &Buses) -> Result<()> {
        // A string instruction on memory that is nobody's makes many accesses.
        const MOST_ACCESSES: usize = 1 << 16;
        self.fd.set_kvm_immediate_exit(1);
        let mut result = Ok(Exit::Answered);
        for _ in 0..MOST_ACCESSES {
            result = self.run(buses);
            if !matches!(result, Ok(Exit::Answered)) {
                break;
            }
        }
        self.fd.set_kvm_immediate_exit(0);
        result.map(|_| ())
    }

    /// One instruction may read several times (`rep ins`).
    fn ports_in(&mut self, port: u16, mut data: NonNull<[u8]>, bus: &Bus) {
        let size = self.access_size();
        // SAFETY: the bytes lie in the mapping of this processor's `kvm_run`, behind the structure, and stay there while `self` lives; nobody else
        // refers to them until the next run.
        let data = unsafe { data.as_mut() };
        for element in data.chunks_mut(size) {
            bus.read(port.into(), element);
        }
    }

    /// As [`ports_in`](Self::ports_in).
    fn ports_out(&mut self, port: u16, data: NonNull<[u8]>, bus: &Bus) {
        let size = self.access_size();
        // SAFETY: as in `ports_in`.
        let data = unsafe { data.as_ref() };
        for element in data.chunks(size) {
            bus.write(port.into(), element);
        }
    }

    /// Bytes of one access to a port, after an exit for one.
    fn access_size(&mut self) -> usize {
        // SAFETY: every bit pattern is a valid number, and the exit was one for a port.
        let size = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size };
        usize::from(size).max(1)
    }

    fn internal_error(&mut self) -> String {
        // SAFETY: every bit pattern is a valid number, and the exit was an internal error.
        let error = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let meaning = match error.suberror {
            kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
            kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions that KVM cannot deliver",
            kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "an event that KVM cannot deliver",
            _ => "an exit that KVM does not know",
        };
        format!("KVM_EXIT_INTERNAL_ERROR {}: {meaning}", error.suberror)
    }

    /// Says which processor it was, and where.
    fn stopped(&self, kind: ErrorKind) -> Error {
        Error::new(format!("run processor {}{}", self.number, self.place()), kind)
    }

    /// Says where it was when it shut itself down.
    pub(crate) fn tell_shutdown(&self) {
        tracing::warn!(
            "processor {}{} has shut itself down (a triple fault): the machine is reset",
            self.number,
            self.place()
        );
    }

    /// Where it is.
    fn place(&self) -> String {
        let regs = self.fd.get_regs();
        regs.map_or_else(|_| String::new(), |regs| format!(" at {:#x}", regs.rip))
    }
}

fn fault(is_silent: bool) -> &'static str {
    if is_silent {
        "EFAULT: the host has no memory behind an address of the guest: a function that does not come back from its sleep or reset, too few huge pages, or \
         a limit of memory is reached"
    } else {
        "EFAULT: the host has no memory behind an address of the guest: too few huge pages, or a limit of memory is reached"
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
