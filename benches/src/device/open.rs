//! Opening functions that are bound to vfio-pci, one after another and all at once, until each has answered a read of its registers.

use super::meter::order;
use super::{Case, Session};
use anyhow::{Context, Result, anyhow, ensure};
use iommu::OpenOptions;
use iommu::space::Attached;
use pci::Bdf;
use raw_calls::VfioIoctls;
use std::path::PathBuf;
use vfio_core::{Backend, RegionIndex};

const SUITE: &str = "open";

/// Who opens, and how.
const WAYS: [&str; 4] = [
    "ours, one by one",
    "ours, a thread for each",
    "ours, one space",
    "vfio-ioctls, one by one",
];

/// Measures with one function, and with as many as there are.
///
/// # Errors
/// Of ours.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    // As many as one, an 82576 and the NVMe controllers of the lab have.
    let mut counts: Vec<usize> = [1, 7, 32, functions.len()]
        .map(|count| count.min(functions.len()))
        .into();
    counts.dedup();
    for count in counts {
        let functions = functions.get(..count).context("no function to open")?;
        let case = Case::new(
            SUITE,
            // No I/O: a register is read, which shows that the function is there and answers.
            format!("open {count} functions and read a register of each"),
            &[("functions", &count.to_string())],
        );
        if !session.wants(&case.name) {
            continue;
        }
        measure(session, &case, functions)?;
    }
    Ok(())
}

fn measure(session: &mut Session, case: &Case, functions: &[Bdf]) -> Result<()> {
    // Each is reset when it is opened, which takes 100 ms.
    let turns = if session.is_quick || functions.len() > 100 {
        2
    } else {
        5
    };
    let mut figures = vec![Vec::new(); WAYS.len()];
    let mut failed = None;
    for turn in 0..=turns {
        for way in order(WAYS.len(), turn) {
            let begin = session.meter.look();
            let opened = match way {
                0 => one_by_one(functions),
                1 => all_at_once(functions),
                2 => in_one_space(functions),
                _ => theirs(functions),
            };
            let took = session.meter.between(begin, session.meter.look());
            match (opened, way) {
                // Closing them resets them once more, and is not in it.
                (Ok(held), _) => drop(held),
                (Err(error), 3) => failed = Some(error),
                (Err(error), _) => return Err(error),
            }
            if let Some(figures) = figures.get_mut(way)
                && turn > 0
            {
                figures.push(took);
            }
        }
    }
    for (way, turns) in WAYS.into_iter().zip(figures) {
        match (&failed, way == "vfio-ioctls, one by one") {
            (Some(error), true) => session.miss(SUITE, &case.name, way, &format!("{error:#}"))?,
            _ => session.tell(case, way, turns)?,
        }
    }
    Ok(())
}

/// It answers: its first register can be read. What it says does not matter, but that nothing is all ones.
fn first_access(attached: &Attached) -> Result<()> {
    let device = attached.device();
    let id = device
        .config()?
        .read_u32(0)
        .context("configuration space of no bytes")?;
    ensure!(id != u32::MAX, "the function is gone");
    let region = device.region(RegionIndex::BAR0)?;
    let registers = region.map(0..4096.min(region.size()))?;
    registers.read_u32(0).context("a BAR of no bytes")?;
    Ok(())
}

/// Opens a function and reads a register.
///
/// # Errors
/// Of ours.
pub fn registers(function: Bdf) -> Result<Box<dyn Send>> {
    let attached = OpenOptions::default().only(Backend::Iommufd).open(function)?;
    first_access(&attached)?;
    Ok(Box::new(attached))
}

/// Functions that are open.
pub type Held = Vec<Box<dyn Send>>;

/// Ours, one after another, each in an address space of its own.
///
/// # Errors
/// Of ours.
pub fn one_by_one(functions: &[Bdf]) -> Result<Held> {
    functions.iter().map(|function| registers(*function)).collect()
}

/// Ours, each by a thread of its own.
///
/// # Errors
/// Of ours.
pub fn all_at_once(functions: &[Bdf]) -> Result<Held> {
    by_threads(functions, functions.len(), registers)
}

/// By so many threads at most, each of which opens its share one after another.
///
/// # Errors
/// Those of `open`.
pub fn by_threads(
    functions: &[Bdf],
    threads: usize,
    open: impl Fn(Bdf) -> Result<Box<dyn Send>> + Sync,
) -> Result<Held> {
    let open = &open;
    let share = functions.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = functions
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(|function| open(*function)).collect::<Result<Held>>()))
            .collect();
        let mut held = Held::new();
        for thread in threads {
            held.extend(thread.join().map_err(|_panic| anyhow!("a thread panicked"))??);
        }
        Ok(held)
    })
}

/// Closes them all at once: each is reset once more, which takes 100 ms.
pub fn close(held: Held) {
    std::thread::scope(|scope| {
        for function in held {
            scope.spawn(move || drop(function));
        }
    });
}

fn in_one_space(functions: &[Bdf]) -> Result<Held> {
    let mut space = None;
    let mut held: Held = Vec::new();
    for function in functions {
        let attached = match &space {
            Some(space) => OpenOptions::default().open_in(space, *function)?,
            None => OpenOptions::default().only(Backend::Iommufd).open(*function)?,
        };
        first_access(&attached)?;
        space.get_or_insert_with(|| attached.space().clone());
        held.push(Box::new(attached));
    }
    Ok(held)
}

/// By `vfio-ioctls`, whose constructor reads the function's regions and vectors itself.
///
/// # Errors
/// What it says.
pub fn theirs(functions: &[Bdf]) -> Result<Held> {
    let open = |bdf: &Bdf| {
        let directory = PathBuf::from(format!("/sys/bus/pci/devices/{bdf}"));
        let opened = VfioIoctls::iommufd(&directory)?;
        std::hint::black_box(opened.first_register());
        Ok(Box::new(opened) as Box<dyn Send>)
    };
    functions.iter().map(open).collect()
}
