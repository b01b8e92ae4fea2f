//! Which runs there are: what each measures, on which machine, and how long it may take.

use lab::{Device, Flavour, Machine};
use std::time::Duration;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Lists of 16, 256 and 4,096 functions, against lspci
    List,
    /// What needs no device: allocators, look-ups, rings, plans; by the clock and in instructions
    Software,
    /// Mapping memory for a device, and buffers of a pool, against bare calls and other crates
    Map,
    /// From a device's interrupt to who waits for it
    Interrupt,
    /// What devices move by themselves
    Dma,
    /// Opening devices
    Open,
    /// Bringing VFs up, against scripts, driverctl and dpdk-devbind
    Vfs,
    /// NVMe reads from user space, against the kernel's block layer and QEMU's driver
    Nvme,
    /// Frames of a VF, against DPDK
    Packets,
    /// Starting a guest, against QEMU
    Guest,
}

/// The suite whose figures come in files of criterion, too.
pub(super) const SOFTWARE: &str = "software";
/// The program of steps that cargo does.
pub(super) const CARGO: &str = "cargo";

impl Part {
    pub(super) fn suite(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Software => SOFTWARE,
            Self::Map => "map",
            Self::Interrupt => "interrupt",
            Self::Dma => "dma",
            Self::Open => "open",
            Self::Vfs => "vfs",
            Self::Nvme => "nvme",
            Self::Packets => "packets",
            Self::Guest => "guest",
        }
    }
}

/// Where a program runs.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Host,
    /// In a machine of its own, with a certain kernel or the one that was asked for.
    Lab(Machine, Option<Flavour>),
}

/// One run of one program.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) place: Place,
    /// One of ours, or [`CARGO`].
    pub(super) program: &'static str,
    /// `example:NAME` stands for the path of an example of `drivers`, `program:NAME` for that of a program of ours.
    pub(super) arguments: Vec<String>,
    /// What is added when it is to be quick.
    pub(super) quick: &'static [&'static str],
    pub(super) limit: Duration,
    /// How long it takes, about.
    pub(super) minutes: f64,
}

impl Step {
    /// What its machine boots, if it has one, where `asked` is what the user asked for: else the kernel with iommufd, without which half of the figures
    /// would be missing.
    pub(super) fn kernel(&self, asked: Option<Flavour>) -> Option<Flavour> {
        match &self.place {
            Place::Host => None,
            Place::Lab(_, wanted) => wanted.or(asked).or(Some(Flavour::Full)),
        }
    }
}

/// The runs of these parts, or of all, whose names contain `filter`.
pub(super) fn steps(parts: &[Part], filter: Option<&str>, is_quick: bool) -> Vec<Step> {
    let mut steps = all(is_quick);
    steps.retain(|step| {
        (parts.is_empty() || parts.contains(&step.part)) && filter.is_none_or(|filter| step.name.contains(filter))
    });
    steps
}

fn all(is_quick: bool) -> Vec<Step> {
    let wall = |devices: &[Device]| Machine {
        devices: devices.to_vec(),
        ..Machine::default()
    };
    let counting = |devices: &[Device]| Machine {
        cpus: 1,
        icount: true,
        ..wall(devices)
    };
    let lab = |machine| Place::Lab(machine, None);
    let step = |part, name: &str, place, program, arguments: &[&str], minutes: (f64, f64)| {
        let minutes = if is_quick { minutes.1 } else { minutes.0 };
        Step {
            part,
            name: name.to_owned(),
            place,
            program,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            quick: &["--quick"],
            // A busy host takes longer, and a run that hangs must end.
            limit: Duration::from_secs_f64(minutes * 60.0 * 6.0 + 120.0),
            minutes,
        }
    };
    let (igb, nvme) = ([Device::Igb], [Device::Nvme]);
    let interrupting = [Device::Igb, Device::Nvme, Device::Edu];
    // For mappings of 1 GiB, of small pages and of one.
    let large = |machine| Machine {
        memory_mib: 4096,
        gigantic_pages: 1,
        ..machine
    };
    let map =
        |name, place, arguments: &[&str], minutes| step(Part::Map, name, place, "device-bench", arguments, minutes);
    let interrupt = |name, place, arguments: &[&str], minutes| {
        step(Part::Interrupt, name, place, "device-bench", arguments, minutes)
    };
    vec![
        step(
            Part::List,
            "list",
            Place::Host,
            "list-ratio",
            &["program:sriovctl"],
            (0.3, 0.1),
        ),
        map(
            "map instructions",
            lab(counting(&igb)),
            &["map", "pool", "--instructions"],
            (1.5, 0.7),
        ),
        map("map time", lab(large(wall(&igb))), &["map", "pool"], (1.5, 0.5)),
        // A distribution's, on which containers of type1 are all that there is.
        map(
            "map instructions, stock kernel",
            Place::Lab(counting(&igb), Some(Flavour::Stock)),
            &["map", "--instructions"],
            (1.0, 0.5),
        ),
        interrupt(
            "interrupt instructions",
            lab(counting(&interrupting)),
            &["interrupt", "--instructions"],
            (1.0, 0.5),
        ),
        interrupt("interrupt time", lab(wall(&interrupting)), &["interrupt"], (1.0, 0.5)),
        step(
            Part::Open,
            "open",
            lab(wall(&igb)),
            "device-bench",
            &["open"],
            (0.5, 0.3),
        ),
        Step {
            quick: &[],
            ..step(
                Part::Software,
                "software instructions",
                Place::Host,
                "counts",
                &[],
                (3.0, 1.2),
            )
        },
        Step {
            quick: &["--", "--quick"],
            ..step(
                Part::Software,
                "software time",
                Place::Host,
                CARGO,
                &["bench", "--package", "benches", "--bench", "operations"],
                (4.0, 0.8),
            )
        },
        step(
            Part::Dma,
            "dma",
            lab(wall(&[Device::Nvme, Device::Igb])),
            "device-bench",
            &["dma"],
            (1.0, 0.3),
        ),
        step(
            Part::Vfs,
            "vfs",
            lab(wall(&[Device::Nvme127, Device::Igb])),
            "bench-vfs",
            &[],
            (14.5, 3.0),
        ),
        step(
            Part::Nvme,
            "nvme rates",
            // fio wants System V's shared memory, which the full kernel does not have.
            Place::Lab(wall(&nvme), Some(Flavour::Stock)),
            "bench-nvme",
            &["rates", "example:nvme-perf"],
            (4.5, 0.7),
        ),
        step(
            Part::Nvme,
            "nvme instructions",
            Place::Lab(counting(&nvme), Some(Flavour::Stock)),
            "bench-nvme",
            &["costs", "example:nvme-perf"],
            (4.5, 0.7),
        ),
        step(
            Part::Packets,
            "packets rates",
            lab(wall(&igb)),
            "bench-packets",
            &["rates", "example:vf-pps"],
            (2.5, 0.7),
        ),
        step(
            Part::Packets,
            "packets instructions",
            lab(counting(&igb)),
            "bench-packets",
            &["costs", "example:vf-pps"],
            (1.0, 0.7),
        ),
        step(
            Part::Guest,
            "guest",
            lab(wall(&[Device::Igb, Device::Igb, Device::Igb, Device::Edu])),
            "bench-guest",
            &[],
            (5.0, 1.2),
        ),
        step(
            Part::Guest,
            "guest instructions",
            lab(counting(&[Device::Igb])),
            "bench-guest",
            &["--instructions"],
            (3.0, 1.5),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_takes_fifty_minutes_and_a_quarter_of_an_hour_when_quick() {
        let minutes = |is_quick| steps(&[], None, is_quick).iter().map(|step| step.minutes).sum::<f64>();
        assert!(minutes(false) <= 50.0 && minutes(true) <= 15.0);
    }

    #[test]
    fn parts_and_names_choose_runs_and_names_are_those_of_files() {
        assert_eq!(steps(&[Part::Nvme], None, false).len(), 2);
        assert_eq!(steps(&[Part::Nvme], Some("instr"), false).len(), 1);
        let mut names: Vec<_> = steps(&[], None, false).into_iter().map(|step| step.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
