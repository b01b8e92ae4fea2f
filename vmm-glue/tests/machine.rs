//! Machines of a few instructions: how they end, what they say, and that nothing is left of them. They need `/dev/kvm`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by it, or says why it is skipped"
)]

mod elf;

use elf::{LOAD, kernel};
use std::fs::File;
use std::io::{PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vfio_core::{EventFd, PageSize};
use vmm_glue::bus::Device;
use vmm_glue::interrupt::{Irqs, Line, MsiMessage, Route};
use vmm_glue::kvm::Kvm;
use vmm_glue::machine::{Console, End, Files, Handle, Machine, Plugged, Reboot, Spec};
use vmm_glue::memory::Node;
use vmm_glue::pci::Root;
use vmm_glue::{Error, ErrorKind, Result};

/// `mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt; jmp $-1`
const POWER_OFF: &[u8] = &[
    0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x34, 0x66, 0xEF, 0xF4, 0xEB, 0xFD,
];
/// `mov dx, 0xCF9; mov al, 6; out dx, al; hlt; jmp $-1`
const RESET: &[u8] = &[0x66, 0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE, 0xF4, 0xEB, 0xFD];
/// `mov dx, 0x3F8`
const COM1: &[u8] = &[0x66, 0xBA, 0xF8, 0x03];

/// Descriptors are counted: one machine at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn spec(vcpus: u32, reboot: Reboot) -> Spec {
    let node = Node {
        len_bytes: 8 << 20,
        vcpus,
        host: None,
    };
    Spec {
        nodes: vec![node],
        pci_node: None,
        pages: PageSize::Base,
        command_line: String::new(),
        reboot,
        has_exit_port: false,
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs a machine to its end, in which `meanwhile` has a part, with the ends of pipes to write to as the keyboard and as the guest: how it ended, and what it said. `None` without KVM.
fn run(
    code: &[u8],
    spec: Spec,
    input: &[u8],
    meanwhile: impl FnOnce(&mut Machine, [PipeWriter; 2]),
) -> Option<(Result<End>, String)> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // What else calls itself KVM may be an emulation that cannot do it all.
    if std::env::var_os("LAB_KERNEL").is_none() {
        println!("lab-skip: machines run in the lab, where KVM is known (elsewhere: set LAB_KERNEL)");
        return None;
    }
    let before = descriptors();
    let (mut said, output) = pipe().unwrap();
    let (typed, mut keyboard) = pipe().unwrap();
    keyboard.write_all(input).unwrap();
    let ends = [keyboard.try_clone().unwrap(), output.try_clone().unwrap()];
    let files = Files {
        kvm: Kvm::open(Path::new("/dev/kvm")).unwrap(),
        kernel: kernel(code),
        initrd: None,
        console: Console {
            input: Some(typed.into()),
            output: output.into(),
        },
    };
    let mut machine = Machine::new(spec, files).unwrap();
    meanwhile(&mut machine, ends);
    let end = machine.run();
    drop(keyboard);
    let mut text = Vec::new();
    said.read_to_end(&mut text).unwrap();
    drop(said);
    assert_eq!(descriptors(), before, "nothing stays open");
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|task| std::io::read_to_string(File::open(task.unwrap().path().join("comm")).unwrap()));
    assert!(
        !names.flatten().any(|name| name.starts_with("vcpu")),
        "every thread is joined"
    );
    Some((end, String::from_utf8_lossy(&text).into_owned()))
}

fn end_of(code: &[u8], spec: Spec) -> Option<(Result<End>, String)> {
    run(code, spec, b"", |_, _| ())
}

#[test]
fn a_guest_says_something_and_powers_off() {
    let code = [COM1, &[0xB0, b'h', 0xEE, 0xB0, b'i', 0xEE], POWER_OFF].concat();
    if let Some((end, said)) = end_of(&code, spec(2, Reboot::End)) {
        assert_eq!((end.unwrap(), said.as_str()), (End::PoweredOff, "hi"));
    }
}

#[test]
fn a_guest_is_done_with_a_status() {
    // mov al, 7; out 0xF4, al; hlt
    let spec = Spec {
        has_exit_port: true,
        ..spec(1, Reboot::End)
    };
    if let Some((end, _)) = end_of(&[0xB0, 7, 0xE6, 0xF4, 0xF4], spec) {
        assert_eq!(end.unwrap(), End::Exited(7));
    }
}

#[test]
fn a_string_instruction_is_as_many_accesses_as_it_has_elements() {
    // mov esi, TEXT; mov ecx, 5; cld; rep outsb
    let text = LOAD + 4 + 13 + u32::try_from(POWER_OFF.len()).unwrap();
    let [a, b, c, d] = text.to_le_bytes();
    let string = [0xBE, a, b, c, d, 0xB9, 5, 0, 0, 0, 0xFC, 0xF3, 0x6E];
    let code = [COM1, &string, POWER_OFF, b"words"].concat();
    if let Some((end, said)) = end_of(&code, spec(1, Reboot::End)) {
        assert_eq!((end.unwrap(), said.as_str()), (End::PoweredOff, "words"));
    }
}

#[test]
fn what_is_typed_is_read_in_order_however_much_it_is() {
    // again: mov dx, 0x3FD; in al, dx; test al, 1; jz again; mov dx, 0x3F8; in al, dx; out dx, al; cmp al, '!'; jne again
    let read = [0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 1, 0x74, 0xF7];
    let echo = [0x66, 0xBA, 0xF8, 0x03, 0xEC, 0xEE, 0x3C, b'!', 0x75, 0xED];
    let code = [&read[..], &echo, POWER_OFF].concat();
    let typed = format!("{}!", "0123456789".repeat(30));
    if let Some((end, said)) = run(&code, spec(1, Reboot::End), typed.as_bytes(), |_, _| ()) {
        assert_eq!((end.unwrap(), said), (End::PoweredOff, typed));
    }
}

#[test]
fn where_nobody_answers_ones_are_read() {
    // mov eax, [0xD0000000]; inc eax; jz off; (say no); off:
    let look = [0xA1, 0, 0, 0, 0xD0, 0x40, 0x74, 7];
    let code = [&look[..], COM1, &[0xB0, b'n', 0xEE], POWER_OFF].concat();
    if let Some((end, said)) = end_of(&code, spec(1, Reboot::End)) {
        assert_eq!((end.unwrap(), said.as_str()), (End::PoweredOff, ""));
    }
}

#[test]
fn a_triple_fault_is_a_reset() {
    // ud2, and no table that says who handles it.
    if let Some((end, _)) = end_of(&[0x0F, 0x0B], spec(2, Reboot::End)) {
        assert_eq!(end.unwrap(), End::Reset);
    }
    // mov eax, [0x300000]; inc dword [0x300000]; test eax, eax; jnz off; ud2; off:
    let once = [
        0xA1, 0, 0, 0x30, 0, 0xFF, 0x05, 0, 0, 0x30, 0, 0x85, 0xC0, 0x75, 2, 0x0F, 0x0B,
    ];
    if let Some((end, _)) = end_of(&[&once[..], POWER_OFF].concat(), spec(2, Reboot::InPlace)) {
        assert_eq!(end.unwrap(), End::PoweredOff);
    }
}

/// Counts what it is asked.
#[derive(Debug, Default)]
struct Counted {
    resets: AtomicUsize,
    stops: AtomicUsize,
}

impl Plugged for Counted {
    fn reset(&self) -> Result<()> {
        self.resets.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn drop_silent_slots(&self) -> bool {
        true
    }

    fn stop(&self) -> Result<()> {
        self.stops.fetch_add(1, Ordering::Relaxed);
        Err(Error::new("give it back", ErrorKind::TimedOut))
    }
}

#[test]
fn a_reset_that_is_asked_for_twice_is_one() {
    // mov eax, [0x300000]; cmp eax, 3; jae off; inc dword [0x300000]; mov dx, 0xCF9;
    // again: mov al, 6; out dx, al; mov al, 0xFE; out 0x64, al; jmp again; off:
    let count = [0xA1, 0, 0, 0x30, 0, 0x83, 0xF8, 3, 0x73, 19, 0xFF, 0x05, 0, 0, 0x30, 0];
    let ask = [
        0x66, 0xBA, 0xF9, 0x0C, 0xB0, 6, 0xEE, 0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xF7,
    ];
    let code = [&count[..], &ask, POWER_OFF].concat();
    let counted = Arc::new(Counted::default());
    let functions: Arc<dyn Plugged> = Arc::<Counted>::clone(&counted);
    let ended = run(&code, spec(1, Reboot::InPlace), b"", |machine, _| {
        machine.connect(&Root::new(Vec::new()).unwrap(), functions).unwrap();
    });
    if let Some((end, _)) = ended {
        assert_eq!(
            end.unwrap(),
            End::PoweredOff,
            "what fails at the end does not change it"
        );
        assert_eq!(counted.resets.load(Ordering::Relaxed), 3);
        assert_eq!(counted.stops.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_reset_ends_the_machine_or_begins_it_again() {
    if let Some((end, _)) = end_of(RESET, spec(1, Reboot::End)) {
        assert_eq!(end.unwrap(), End::Reset);
    }
    // mov eax, [0x300000]; cmp eax, 2; je off; inc dword [0x300000]; (reset); off: (say its number)
    let count = [0xA1, 0, 0, 0x30, 0, 0x83, 0xF8, 2, 0x74, 16, 0xFF, 0x05, 0, 0, 0x30, 0];
    let say = [0x04, b'0', 0xEE];
    let code = [&count[..], RESET, COM1, &say, POWER_OFF].concat();
    if let Some((end, said)) = end_of(&code, spec(2, Reboot::InPlace)) {
        assert_eq!(
            (end.unwrap(), said.as_str()),
            (End::PoweredOff, "2"),
            "memory has kept the count"
        );
    }
}

#[test]
fn a_guest_that_does_nothing_is_stopped() {
    // Busy; halted; and one that waits for somebody to read what it says: mov esi, LOAD; mov ecx, 0x40000; rep outsb; jmp $
    let talks = [COM1, &[0xBE, 0, 0, 0x10, 0, 0xB9, 0, 0, 4, 0, 0xF3, 0x6E, 0xEB, 0xFE]].concat();
    for code in [&[0xEB, 0xFE][..], &[0xF4, 0xEB, 0xFD], &talks] {
        let ended = run(code, spec(2, Reboot::InPlace), b"typed", |machine, _| {
            let handle = machine.handle();
            // By the event thread itself, some time after the guest has begun.
            let (begun, soon) = (EventFd::new().unwrap(), EventFd::new().unwrap());
            begun.signal().unwrap();
            let event = begun.try_clone().unwrap();
            let added = machine.events().add(&event, move || {
                begun.try_read().unwrap();
                soon.wait_timeout(Duration::from_millis(700)).unwrap();
                handle.stop().unwrap();
            });
            added.unwrap();
        });
        if let Some((end, _)) = ended {
            assert_eq!(end.unwrap(), End::Stopped);
        }
    }
}

#[test]
fn a_guest_whose_words_nobody_reads_is_typed_to_and_stopped() {
    // mov al, 'x'; out dx, al; jmp $-3
    let code = [COM1, &[0xB0, b'x', 0xEE, 0xEB, 0xFD]].concat();
    let ended = run(
        &code,
        spec(1, Reboot::End),
        b"",
        |machine, [mut keyboard, mut output]| {
            // All that a pipe takes.
            output.write_all(&[b'x'; 1 << 16]).unwrap();
            let handle = machine.handle();
            let (begun, last) = (EventFd::new().unwrap(), EventFd::new().unwrap());
            begun.signal().unwrap();
            let (first, second) = (begun.try_clone().unwrap(), last.try_clone().unwrap());
            let typed = machine.events().add(&first, move || {
                begun.try_read().unwrap();
                // The guest has begun to talk meanwhile.
                second.wait_timeout(Duration::from_millis(700)).unwrap();
                keyboard.write_all(b"typed").unwrap();
                second.signal().unwrap();
            });
            typed.unwrap();
            let event = last.try_clone().unwrap();
            let stopped = machine.events().add(&event, move || {
                last.try_read().unwrap();
                handle.stop().unwrap();
            });
            stopped.unwrap();
        },
    );
    if let Some((end, said)) = ended {
        assert_eq!(end.unwrap(), End::Stopped);
        assert!(said.len() >= 1 << 16 && said.bytes().all(|byte| byte == b'x'));
    }
}

#[test]
fn what_is_signalled_while_there_is_no_message_stays_in_the_event() {
    let ended = run(POWER_OFF, spec(1, Reboot::End), b"", |machine, _| {
        let irqs = machine.vm().irqs().clone();
        let route = irqs.route().unwrap();
        for data in [0x4041, 0x4042] {
            let address = 0xFEE0_0000;
            irqs.set(&[(&*route, MsiMessage { address, data })]).unwrap();
            route.deliver(true).unwrap();
        }
        route.deliver(false).unwrap();
        route.event().signal().unwrap();
        assert_eq!(route.event().try_read().unwrap(), Some(1));
        let undeliverable = MsiMessage {
            address: 0x1000,
            data: 1,
        };
        assert!(irqs.set(&[(&*route, undeliverable)]).is_err());
        irqs.signal(undeliverable).unwrap();
        let lines = [irqs.line(16).unwrap(), irqs.line(16).unwrap()];
        assert!(irqs.line(24).is_err(), "there are 24 pins");
        drop(lines);
        drop(route);
        assert!(machine.vm().vfio().is_ok());
    });
    if let Some((end, _)) = ended {
        assert_eq!(end.unwrap(), End::PoweredOff);
    }
}

/// Segments and a table of interrupts of its own; vector 0x40 from pin 16 of the I/O APIC, level-triggered. Writes to port 0x510: an R when it is ready,
/// an L when an interrupt of vector 0x40 is ended, an M after one of vector 0x41.
#[rustfmt::skip]
const INTERRUPTED: &[u8] = &[
    0xBC, 0x00, 0x00, 0x20, 0x00, 0x0F, 0x01, 0x15, 0x98, 0x00, 0x10, 0x00, 0xEA, 0x13, 0x00, 0x10,
    0x00, 0x10, 0x00, 0xB8, 0x18, 0x00, 0x00, 0x00, 0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, 0x0F, 0x01,
    0x1D, 0x9E, 0x00, 0x10, 0x00, 0xC7, 0x05, 0xF0, 0x00, 0xE0, 0xFE, 0xFF, 0x01, 0x00, 0x00, 0xC7,
    0x05, 0x00, 0x00, 0xC0, 0xFE, 0x31, 0x00, 0x00, 0x00, 0xC7, 0x05, 0x10, 0x00, 0xC0, 0xFE, 0x00,
    0x00, 0x00, 0x00, 0xC7, 0x05, 0x00, 0x00, 0xC0, 0xFE, 0x30, 0x00, 0x00, 0x00, 0xC7, 0x05, 0x10,
    0x00, 0xC0, 0xFE, 0x40, 0x80, 0x00, 0x00, 0xBA, 0x10, 0x05, 0x00, 0x00, 0xB0, 0x52, 0xEE, 0xFB,
    0xF4, 0xEB, 0xFD, 0xB0, 0x4C, 0xEB, 0x02, 0xB0, 0x4D, 0xC7, 0x05, 0xB0, 0x00, 0xE0, 0xFE, 0x00,
    0x00, 0x00, 0x00, 0xEE, 0xCF, 0x8D, 0x76, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x9B, 0xCF, 0x00,
    0xFF, 0xFF, 0x00, 0x00, 0x00, 0x93, 0xCF, 0x00, 0x1F, 0x00, 0x78, 0x00, 0x10, 0x00, 0x0F, 0x02,
    0xA4, 0xFE, 0x0F, 0x00, 0x63, 0x00, 0x10, 0x00, 0x00, 0x8E, 0x10, 0x00, 0x67, 0x00, 0x10, 0x00,
    0x00, 0x8E, 0x10, 0x00,
];

/// What happens next, each time the guest has ended an interrupt.
#[derive(Debug)]
struct Steps {
    irqs: vmm_glue::kvm::Irqs,
    handle: Handle,
    lines: [Box<dyn Line>; 2],
    route: Box<dyn Route>,
    seen: Mutex<String>,
}

impl Steps {
    /// Whether both who share the line were told that it is asserted no more.
    fn are_resampled(&self) -> bool {
        let told = self.lines.each_ref().map(|line| line.resample().try_read().unwrap());
        told == [Some(1); 2]
    }
}

impl Device for Steps {
    fn read(&self, _: u64, to: &mut [u8]) {
        to.fill(0);
    }

    fn write(&self, _: u64, from: &[u8]) {
        let message = MsiMessage {
            address: 0xFEE0_0000,
            data: 0x41,
        };
        let mut seen = self.seen.lock().unwrap();
        seen.push(char::from(from[0]));
        match seen.as_str() {
            "R" => self.lines[0].event().signal().unwrap(),
            "RL" => {
                assert!(self.are_resampled());
                self.lines[1].event().signal().unwrap();
            }
            "RLL" => {
                assert!(self.are_resampled());
                // Comes before there is a message.
                self.route.event().signal().unwrap();
                self.irqs.set(&[(&*self.route, message)]).unwrap();
                self.route.deliver(true).unwrap();
            }
            "RLLM" => self.irqs.signal(message).unwrap(),
            "RLLMM" => self.route.event().signal().unwrap(),
            "RLLMMM" => self.handle.stop().unwrap(),
            other => assert_eq!(other, "", "nothing else comes"),
        }
    }
}

#[test]
fn lines_are_shared_and_messages_come_from_events_of_before_and_after() {
    let mut steps = None;
    let ended = run(INTERRUPTED, spec(1, Reboot::End), b"", |machine, _| {
        let irqs = machine.vm().irqs().clone();
        let lines = [irqs.line(16).unwrap(), irqs.line(16).unwrap()];
        let route = irqs.route().unwrap();
        let device = Arc::new(Steps {
            irqs,
            handle: machine.handle(),
            lines,
            route,
            seen: Mutex::default(),
        });
        machine
            .ports()
            .insert(0x510..0x511, Arc::<Steps>::clone(&device))
            .unwrap();
        steps = Some(Arc::downgrade(&device));
    });
    if let Some((end, _)) = ended {
        assert_eq!(end.unwrap(), End::Stopped);
        assert!(
            steps.unwrap().upgrade().is_none(),
            "the machine has let go of its devices"
        );
    }
}
