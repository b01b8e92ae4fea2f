//! From a store into a register of an edu, which a guest has, to a program in the guest that waits for its interrupt: the device's message wakes
//! nobody in the VMM, for an irqfd takes it to the guest.
//!
//! The guest times it by its own clock. Its handler is that of the kernel's vfio-pci, which signals an event; the wake from that is in the figure.

use super::Way;
use super::vmm::{LIMIT, Vmm};
use anyhow::{Context, Result, ensure};
use benches::program::{Case, Program, Turns, in_turns};
use benches::record::Clock;
use std::time::Instant;
use system_tests::machine::{attribute, done, functions};

/// What stands before the figures.
const LINE: &str = "edu: MSI: wakes in ns: ";
const WHAT: [&str; 3] = ["median", "90th percentile", "99th percentile"];

/// Measures by all VMMs that can have an edu.
pub(super) fn measure(out: &mut Program, turns: usize) -> Result<()> {
    out.turn_to("interrupt");
    if std::env::var("LAB").as_deref() != Ok("full") {
        return out.absent(
            "a guest's handler by irqfd",
            "ours",
            "the guest's kernel has no VFIO built in",
        );
    }
    let edu = functions()?
        .into_iter()
        .find(|function| attribute(function, "device").is_ok_and(|device| device == "0x11e8"));
    let edu = edu.context("the machine has no edu")?;
    done(&["bind", &edu, "--driver", "vfio-pci"])?;
    let mut seen: [Turns; 3] = Default::default();
    let mut ways = vec![Way::Ours, Way::Q35];
    for turn in 0..turns {
        for way in in_turns(&ways, turn) {
            match once(way, &edu) {
                Ok(figures) => {
                    let name = way.name();
                    out.note(&format!("{name}: a guest's handler: {figures:?} ns"))?;
                    for (turns, figure) in seen.iter_mut().zip(figures) {
                        turns.add(name, figure);
                    }
                }
                // A guest inside an emulated machine may not come up.
                Err(error) => {
                    out.absent("a guest's handler by irqfd", way.name(), &format!("{error:#}"))?;
                    ways.retain(|other| *other != way);
                }
            }
        }
    }
    for (what, turns) in WHAT.iter().zip(seen) {
        let case = Case {
            name: format!("a guest's handler by irqfd, {what}"),
            given: [("device".to_owned(), "edu, MSI".to_owned())].into(),
            clock: Clock::Wall,
            unit: "ns/op",
        };
        out.say(&case, turns)?;
    }
    Ok(())
}

fn once(way: Way, edu: &str) -> Result<[f64; 3]> {
    let mut command = way.command(&[edu.to_owned()], "LAB_GUEST_EDU_INITRD", " lab.edu=300")?;
    let mut vmm = Vmm::start(&mut command)?;
    let line = vmm.wait_for(LINE, Instant::now() + LIMIT)?;
    vmm.end()?;
    figures(&line)
}

fn figures(line: &str) -> Result<[f64; 3]> {
    let mut figures = [0.0; 3];
    for (figure, what) in figures.iter_mut().zip(WHAT) {
        let (_, behind) = line.split_once(what).with_context(|| format!("no {what} in {line}"))?;
        let number = behind.trim_start().split([',', '\r', '\n']).next().unwrap_or_default();
        *figure = number.parse().with_context(|| format!("{what} in {line}"))?;
        ensure!(*figure > 0.0, "{what} in {line}");
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_guest_are_read() {
        let line = "guest: edu: MSI: wakes in ns: median 1200, 90th percentile 1500, 99th percentile 90000\r\n";
        assert_eq!(figures(line).unwrap(), [1200.0, 1500.0, 90_000.0]);
        assert!(figures("median 0, 90th percentile 1, 99th percentile 2").is_err());
        assert!(figures("median 7").is_err());
    }
}
