//! From a store into a device's register, which a guest has, to a program in the guest that waits for its interrupt: the device's message wakes
//! nobody in the VMM, for an irqfd takes it to the guest. The device is a VF of an 82576, which interrupts by MSI-X, and an edu, by MSI.
//!
//! The guest times it by its own clock. Its handler is that of the kernel's vfio-pci, which signals an event; the wake from that is in the figure.

use super::Way;
use super::vmm::{LIMIT, Vmm};
use anyhow::{Context, Result, ensure};
use benches::device::meter::{distribution, percentile};
use benches::program::{Case, Program, in_turns};
use benches::record::Clock;
use std::collections::BTreeMap;
use std::time::Instant;
use system_tests::machine::{attribute, done, functions};

/// Stands between the device and the figures.
const WAKES: &str = ": wakes in ns: ";
const CASE: &str = "a guest's handler by irqfd";
/// What the guest's own driver of the VF is: left out, so that the VF is nobody's.
const APPEND: &str = " lab.edu=300 initcall_blacklist=igbvf_init_module";
const PERCENTS: [(usize, &str); 3] = [(50, "median"), (90, "90th percentile"), (99, "99th percentile")];

/// Of each device and way, what was seen in each turn.
type Seen = BTreeMap<(String, &'static str), Vec<Vec<f64>>>;

/// Measures by all VMMs that can have an edu, and a VF when there is one.
pub(super) fn measure(out: &mut Program, turns: usize, vf: Option<&String>) -> Result<()> {
    out.turn_to("interrupt");
    if std::env::var("LAB").as_deref() != Ok("full") {
        return out.absent(CASE, "ours", "the guest's kernel has no VFIO built in");
    }
    let edu = functions()?
        .into_iter()
        .find(|function| attribute(function, "device").is_ok_and(|device| device == "0x11e8"));
    let edu = edu.context("the machine has no edu")?;
    done(&["bind", &edu, "--driver", "vfio-pci"])?;
    if vf.is_none() {
        out.absent(CASE, "ours", "82576 VF, MSI-X: the machine has none")?;
    }
    let devices: Vec<String> = vf.cloned().into_iter().chain([edu]).collect();
    let mut seen = Seen::new();
    let mut ways = vec![Way::Ours, Way::Q35];
    for turn in 0..turns {
        for way in in_turns(&ways, turn) {
            match once(way, &devices) {
                Ok(figures) => {
                    for (device, figures) in figures {
                        let median = percentile(&figures, 50);
                        out.note(&format!("{}: {CASE}, {device}: {median} ns", way.name()))?;
                        seen.entry((device, way.name())).or_default().push(figures);
                    }
                }
                // A guest inside an emulated machine may not come up.
                Err(error) => {
                    out.absent(CASE, way.name(), &format!("{error:#}"))?;
                    ways.retain(|other| *other != way);
                }
            }
        }
    }
    for (percent, what) in PERCENTS {
        for ((device, way), turns) in &seen {
            let case = Case {
                name: format!("{CASE}, {what}"),
                given: [("device".to_owned(), device.clone())].into(),
                clock: Clock::Wall,
                unit: "ns/op",
            };
            let figures = turns.iter().map(|figures| percentile(figures, percent)).collect();
            let all = if percent == 50 { turns.concat() } else { Vec::new() };
            out.say_way(&case, way, figures, distribution(&all))?;
        }
    }
    Ok(())
}

/// What each device took in one guest that has all of them.
fn once(way: Way, devices: &[String]) -> Result<Vec<(String, Vec<f64>)>> {
    let mut command = way.command(devices, "LAB_GUEST_EDU_INITRD", APPEND)?;
    let mut vmm = Vmm::start(&mut command)?;
    let deadline = Instant::now() + LIMIT;
    let said = devices.iter().map(|_| figures(&vmm.wait_for(WAKES, deadline)?));
    let said = said.collect::<Result<_>>()?;
    vmm.end()?;
    Ok(said)
}

/// `guest: DEVICE: KIND: wakes in ns: 1 2 3`.
fn figures(line: &str) -> Result<(String, Vec<f64>)> {
    let (device, figures) = line.split_once(WAKES).context("no figures")?;
    let device = device.rsplit("guest: ").next().unwrap_or(device).replace(": ", ", ");
    let figures = figures.split_whitespace().map(str::parse);
    let figures: Vec<f64> = figures.collect::<Result<_, _>>().with_context(|| line.to_owned())?;
    ensure!(
        !figures.is_empty() && figures.iter().all(|figure| *figure > 0.0),
        "figures of {device}: {line}"
    );
    Ok((device, figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_guest_are_read() {
        let line = "[1.0] guest: 82576 VF: MSI-X: wakes in ns: 1200 1500 90000\r\n";
        let expected = ("82576 VF, MSI-X".to_owned(), vec![1200.0, 1500.0, 90_000.0]);
        assert_eq!(figures(line).unwrap(), expected);
        for torn in ["", "0 1", "1 x", "1 2[  3.4] a message"] {
            assert!(
                figures(&format!("guest: edu: MSI: wakes in ns: {torn}")).is_err(),
                "{torn}"
            );
        }
    }
}
