//! The chipset's ports: configuration space by address and data, reset control, power management, and what is left of the keyboard controller.

use crate::Result;
use crate::acpi::{PM_TIMER, PM1_CONTROL, PM1_EVENT, RESET_PORT, SLEEP_TYPE_OFF};
use crate::bus::{Bus, Device};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vfio_core::EventFd;

/// What the guest wants of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    PowerOff,
    Reset,
    /// It is done, with this status.
    Exit(u8),
}

/// The first thing that the guest wants counts.
#[derive(Debug)]
pub(crate) struct Requests {
    first: Mutex<Option<Request>>,
    event: EventFd,
    /// A processor has shut itself down, and it was said.
    is_shutdown_told: AtomicBool,
}

impl Requests {
    /// Signals the event.
    pub(crate) fn new(event: EventFd) -> Self {
        Self {
            first: Mutex::default(),
            event,
            is_shutdown_told: AtomicBool::new(false),
        }
    }

    /// What is wanted, if anything; from now on it is nothing.
    pub(crate) fn take(&self) -> Option<Request> {
        self.first().take()
    }

    /// Nothing is wanted from now on.
    pub(crate) fn forget(&self) {
        *self.first() = None;
    }

    /// A processor has shut itself down: a reset, as chipsets have it. Whether it is the first time, which is worth a line; a guest can do it at will.
    pub(crate) fn shut_down(&self) -> bool {
        self.make(Request::Reset);
        !self.is_shutdown_told.swap(true, Ordering::Relaxed)
    }

    fn make(&self, request: Request) {
        let mut first = self.first();
        if first.is_some() {
            return;
        }
        *first = Some(request);
        if let Err(error) = self.event.signal() {
            tracing::error!(%error, ?request, "the guest's request is lost");
        }
    }

    fn first(&self) -> MutexGuard<'_, Option<Request>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ports of configuration space, 0xCF8 to 0xCFF: [`ConfigPorts`].
const CONFIG: Range<u64> = 0xCF8..0xD00;
const PM: Range<u64> = 0x600..0x606;
const TIMER: Range<u64> = PM_TIMER as u64..PM_TIMER as u64 + 4;
const KEYBOARD: Range<u64> = 0x60..0x61;
const KEYBOARD_COMMAND: Range<u64> = 0x64..0x65;

/// Where a guest may say with what status it is done.
const EXIT: Range<u64> = 0xF4..0xF8;

/// Puts the ports on the bus. `config` answers for [`CONFIG`] but for reset control in its middle.
pub(crate) fn insert(ports: &Bus, requests: &Arc<Requests>, config: Arc<dyn Device>) -> Result<()> {
    let config = ConfigPorts {
        config,
        reset: AtomicU8::new(0),
        requests: Arc::clone(requests),
    };
    ports.insert(CONFIG, Arc::new(config))?;
    let power = Power {
        enabled: AtomicU16::new(0),
        control: AtomicU16::new(0),
        requests: Arc::clone(requests),
    };
    ports.insert(PM, Arc::new(power))?;
    ports.insert(TIMER, Arc::new(Timer(Instant::now())))?;
    ports.insert(KEYBOARD, Arc::new(Keyboard(None)))?;
    ports.insert(KEYBOARD_COMMAND, Arc::new(Keyboard(Some(Arc::clone(requests)))))
}

/// Lets the guest end its machine with a status: the byte that it writes to port 0xF4, where QEMU's `isa-debug-exit` usually is.
pub(crate) fn insert_exit(ports: &Bus, requests: &Arc<Requests>) -> Result<()> {
    ports.insert(EXIT, Arc::new(ExitPort(Arc::clone(requests))))
}

/// Mechanism 1 (PCI Local Bus 3.0 §3.2.2.3.2), which takes whole addresses only, and so leaves single bytes to reset control.
#[derive(Debug)]
struct ConfigPorts {
    config: Arc<dyn Device>,
    /// Reset control, as it was written.
    reset: AtomicU8,
    requests: Arc<Requests>,
}

const RESET_OFFSET: u64 = RESET_PORT as u64 - CONFIG.start;
/// Reset control: the change from 0 to 1 resets.
const RESET_NOW: u8 = 1 << 2;

impl Device for ConfigPorts {
    fn read(&self, offset: u64, to: &mut [u8]) {
        match to {
            [byte] if offset == RESET_OFFSET => *byte = self.reset.load(Ordering::Relaxed),
            to => self.config.read(offset, to),
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        match from {
            [byte] if offset == RESET_OFFSET => {
                let before = self.reset.swap(*byte, Ordering::Relaxed);
                if byte & !before & RESET_NOW != 0 {
                    self.reset.store(0, Ordering::Relaxed);
                    self.requests.make(Request::Reset);
                }
            }
            from => self.config.write(offset, from),
        }
    }
}

/// PM1a event and control block (ACPI 6.5 §4.8.3): events that never come, and sleep.
#[derive(Debug)]
struct Power {
    enabled: AtomicU16,
    control: AtomicU16,
    requests: Arc<Requests>,
}

const ENABLE: u64 = 2;
const CONTROL: u64 = (PM1_CONTROL - PM1_EVENT) as u64;
/// The machine is in ACPI mode.
const SCI_EN: u16 = 1;
/// Sleep now; reads as 0.
const SLP_EN: u16 = 1 << 13;

impl Device for Power {
    fn read(&self, offset: u64, to: &mut [u8]) {
        let registers = [
            0,
            self.enabled.load(Ordering::Relaxed),
            self.control.load(Ordering::Relaxed) | SCI_EN,
        ];
        let bytes = registers.iter().flat_map(|register| register.to_le_bytes());
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, byte) in to.iter_mut().zip(bytes.skip(skipped)) {
            *to = byte;
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let [low, high] = *from else {
            return;
        };
        let value = u16::from_le_bytes([low, high]);
        match offset {
            ENABLE => self.enabled.store(value, Ordering::Relaxed),
            CONTROL => {
                self.control.store(value & !SLP_EN, Ordering::Relaxed);
                if value & SLP_EN != 0 && value >> 10 & 7 == SLEEP_TYPE_OFF {
                    self.requests.make(Request::PowerOff);
                }
            }
            _ => {}
        }
    }
}

/// The power management timer (ACPI 6.5 §4.8.3.3): 32 bits that count from here on. A guest measures its processors' clocks with it.
#[derive(Debug)]
struct Timer(Instant);

/// Its ticks in a second.
const TICKS: u128 = 3_579_545;

/// What it shows after so long: it begins anew every 20 minutes.
fn ticks(elapsed: Duration) -> u32 {
    let ticks = elapsed.as_nanos() * TICKS / 1_000_000_000;
    u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0)
}

impl Device for Timer {
    fn read(&self, offset: u64, to: &mut [u8]) {
        let bytes = ticks(self.0.elapsed()).to_le_bytes();
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, byte) in to.iter_mut().zip(bytes.into_iter().skip(skipped)) {
            *to = byte;
        }
    }

    /// It cannot be set.
    fn write(&self, _offset: u64, _from: &[u8]) {}
}

#[derive(Debug)]
struct ExitPort(Arc<Requests>);

impl Device for ExitPort {
    fn read(&self, _offset: u64, to: &mut [u8]) {
        to.fill(0xFF);
    }

    fn write(&self, offset: u64, from: &[u8]) {
        if let (0, [status, ..]) = (offset, from) {
            self.0.make(Request::Exit(*status));
        }
    }
}

/// No keyboard, but its controller's line to the processor's reset (command 0xFE), if this is the command port.
#[derive(Debug)]
struct Keyboard(Option<Arc<Requests>>);

/// Pulses no line but that of reset.
const PULSE_RESET: u8 = 0xFE;

impl Device for Keyboard {
    /// Nothing came, and nothing waits to be taken.
    fn read(&self, _offset: u64, to: &mut [u8]) {
        to.fill(0);
    }

    fn write(&self, _offset: u64, from: &[u8]) {
        if let (Some(requests), [PULSE_RESET]) = (&self.0, from) {
            requests.make(Request::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> (Bus, Arc<Requests>, Arc<Noted>) {
        let config = Arc::new(Noted::default());
        let bus = Bus::default();
        let requests = Arc::new(Requests::new(EventFd::new().unwrap()));
        insert(&bus, &requests, Arc::<Noted>::clone(&config)).unwrap();
        (bus, requests, config)
    }

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(u64, usize)>>);

    impl Device for Noted {
        fn read(&self, offset: u64, to: &mut [u8]) {
            self.0.lock().unwrap().push((offset, to.len()));
        }

        fn write(&self, offset: u64, from: &[u8]) {
            self.0.lock().unwrap().push((offset, from.len()));
        }
    }

    #[test]
    fn sleep_type_5_powers_off_and_others_do_not() {
        let (bus, requests, _) = platform();
        bus.write(0x604, &(SLP_EN | 4 << 10).to_le_bytes());
        bus.write(0x604, &(5_u16 << 10).to_le_bytes());
        assert_eq!(*requests.first(), None);
        let mut control = [0; 2];
        bus.read(0x604, &mut control);
        assert_eq!(u16::from_le_bytes(control), 5 << 10 | SCI_EN);
        bus.write(0x604, &(SLP_EN | 5 << 10).to_le_bytes());
        assert_eq!(*requests.first(), Some(Request::PowerOff));
        assert_eq!(requests.event.try_read().unwrap(), Some(1));
        bus.write(0x64, &[PULSE_RESET]);
        assert_eq!(*requests.first(), Some(Request::PowerOff), "the first counts");
    }

    #[test]
    fn reset_control_lies_within_the_ports_of_configuration_space() {
        let (bus, requests, config) = platform();
        bus.write(0xCF8, &[0; 4]);
        bus.write(0xCFC, &[0; 2]);
        bus.write(0xCF9, &[2]);
        let mut reset = [0];
        bus.read(0xCF9, &mut reset);
        assert_eq!((reset, *requests.first()), ([2], None));
        bus.write(0xCF9, &[6]);
        assert_eq!(*requests.first(), Some(Request::Reset));
        assert_eq!(*config.0.lock().unwrap(), [(0, 4), (4, 2)]);
    }

    #[test]
    fn a_guest_ends_with_a_status_only_where_it_may() {
        let (bus, requests, _) = platform();
        bus.write(0xF4, &[7]);
        assert_eq!(*requests.first(), None);
        insert_exit(&bus, &requests).unwrap();
        bus.write(0xF5, &[7]);
        assert_eq!(*requests.first(), None);
        bus.write(0xF4, &7_u32.to_le_bytes());
        assert_eq!(*requests.first(), Some(Request::Exit(7)));
    }

    #[test]
    fn the_timer_counts_real_time_in_32_bits() {
        assert_eq!(ticks(Duration::ZERO), 0);
        assert_eq!(ticks(Duration::from_nanos(279)), 0);
        assert_eq!(ticks(Duration::from_nanos(280)), 1);
        assert_eq!(ticks(Duration::from_secs(1)), 3_579_545);
        // 2^32 ticks are 1199.86… seconds.
        assert_eq!(ticks(Duration::from_secs(1200)), 486_704);

        let before = Instant::now();
        let (bus, ..) = platform();
        let read = || {
            let mut bytes = [0; 4];
            bus.read(0x608, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let first = read();
        bus.write(0x608, &[0xFF; 4]);
        let mut last = first;
        // It does not stand still, or go back.
        while last == first {
            last = read();
            assert!(first <= last && last <= ticks(before.elapsed()));
        }
        let mut high = [0; 2];
        bus.read(0x60A, &mut high);
        assert!(u32::from(u16::from_le_bytes(high)) >= last >> 16);
    }

    #[test]
    fn the_keyboard_controller_resets_and_is_ready() {
        let (bus, requests, _) = platform();
        let mut status = [1];
        bus.read(0x64, &mut status);
        bus.write(0x60, &[PULSE_RESET]);
        bus.write(0x64, &[0xD1]);
        assert_eq!((status, *requests.first()), ([0], None));
        bus.write(0x64, &[PULSE_RESET]);
        assert_eq!(*requests.first(), Some(Request::Reset));
    }

    #[test]
    fn any_length_at_any_port_is_harmless() {
        let (bus, ..) = platform();
        for port in 0x5F..0xD01 {
            for len in 0..64 {
                let mut bytes = vec![0xFF; len];
                bus.read(port, &mut bytes);
                bus.write(port, &bytes);
            }
        }
    }
}
