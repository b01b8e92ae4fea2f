//! `assign` and `unassign`: a function into a running guest and back, over the protocol of the guest's VMM.
//!
//! Each VMM is a [`Vmm`]: what would be said to it, and saying it. What it says it did is looked for in what it lists afterwards, and after a removal
//! also in `/proc`: only then can the host use the function again.

use super::{emit, ready, token};
use crate::args::{Assign, Target, TargetKind, Unassign};
use crate::column::Need;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::request::Settings;
use crate::selector::{self, Selector};
use crate::snapshot::Snapshot;
use pci::{Bdf, Fields, GroupId, Sysfs};
use rustix::event::{Timespec, poll};
use serde::Serialize;
use serde_json::Value;
use sriov::{Backend, Holders};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vfio_core::VfToken;

mod cloud_hypervisor;
mod http;
mod libvirt;
mod own;
mod qemu;
mod qmp;
mod report;
#[cfg(test)]
mod tests;
mod wire;

use report::{Other, Report};

/// Functions that a slot of PCI has.
const SLOT: usize = 8;

/// A function that can be given away.
#[derive(Debug, Clone)]
struct Gift {
    bdf: Bdf,
    backend: Backend,
    /// Whether no other interface will do.
    is_demanded: bool,
    /// Its character device; there is none without iommufd.
    node: String,
    group: GroupId,
    /// What it is opened with.
    token: Option<VfToken>,
    /// The other functions of its group.
    siblings: Vec<Bdf>,
}

/// What the VMM made of it, as far as it says.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    /// By what the VMM knows it.
    id: Option<String>,
    backend: Option<Backend>,
    /// Its address in the guest.
    address: Option<String>,
}

/// Something that is said to a VMM.
#[derive(Debug, Serialize)]
struct Step {
    request: String,
    /// The file whose descriptor goes with it.
    with: Option<String>,
}

impl Step {
    fn plain(request: &Value) -> Self {
        Self {
            request: request.to_string(),
            with: None,
        }
    }
}

/// A VMM with a running guest.
trait Vmm {
    /// Its process, where it says so.
    fn peer(&mut self) -> Result<Option<u32>, Failure>;
    /// What [`assign`](Self::assign) says to it.
    fn steps(&self, gift: &Gift) -> Vec<Step>;
    /// What [`unassign`](Self::unassign) says to it.
    fn removal_steps(&self, bdf: Bdf) -> Vec<Step>;
    /// Gives the guest a function, and sees that it has it.
    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure>;
    /// What [`assign_slot`](Self::assign_slot) says to it.
    fn slot_steps(&self, gifts: &[Gift]) -> Vec<Step> {
        gifts.iter().flat_map(|gift| self.steps(gift)).collect()
    }
    /// Gives the guest several functions in one slot, where the VMM can do that.
    fn assign_slot(&mut self, gifts: &[Gift]) -> Result<Vec<Given>, Failure> {
        gifts.iter().map(|gift| self.assign(gift)).collect()
    }
    /// Whether it was told to take a function and has not refused: a failure says nothing then of what it does.
    fn is_told(&self) -> bool;
    /// What is in one slot with a function, and leaves with it.
    fn companions(&mut self, _bdf: Bdf) -> Result<Vec<Other>, Failure> {
        Ok(Vec::new())
    }
    /// Takes a function back, with the guest's consent, and sees that the VMM has it no more.
    fn unassign(&mut self, bdf: Bdf) -> Result<(), Failure>;
    /// Whether the guest has a function.
    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure>;
}

/// Gives functions of one slot to a guest.
pub(crate) fn assign(args: &Assign, settings: &Settings, output: &mut Output) -> Outcome {
    let start = Instant::now();
    check(args)?;
    let mut vmm = vmm(&args.to, args.bus.clone(), &args.virsh, args.timeout);
    // Asked before the machine is looked at: what it holds meanwhile is no news.
    let peer = match args.dry_run {
        true => None,
        false => vmm.peer()?,
    };
    let fields = args.functions.iter().map(Selector::fields);
    let need = Snapshot::FREE | Need::fields(fields.fold(Fields::SRIOV, |all, of| all | of));
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let mut gifts: Vec<Gift> = Vec::new();
    for selector in &args.functions {
        let gift = gift(selector, args, &settings.sysfs, &snapshot, peer)?;
        if gifts.iter().any(|other| other.bdf == gift.bdf) {
            return Err(Failure::usage(format!("{} is named twice", gift.bdf)));
        }
        if gifts.iter().any(|other| other.backend != gift.backend) {
            let failure = Failure::usage("one function goes by iommufd and another one by type1").device(gift.bdf);
            return Err(failure.fix("choose --interface type1"));
        }
        gifts.push(gift);
    }
    let [first, ..] = gifts.as_slice() else {
        return Err(Failure::internal("no function is named"));
    };
    let (bdf, backend) = (first.bdf, first.backend);
    let mut steps = vmm.slot_steps(&gifts);
    for step in &mut steps {
        for gift in &gifts {
            step.request = token::hidden(&step.request, gift.token);
        }
    }
    let mut report = Report::new(bdf, &args.to, steps);
    report.interface = Some(emit::name(backend));
    if args.dry_run {
        return report.dry_run(output);
    }
    snapshot.note_what_was_not_seen(output);
    let given = vmm.assign_slot(&gifts).map_err(|failure| {
        let failure = on(failure, bdf);
        match vmm.is_told() {
            true => unsure(failure, &args.to),
            false => failure,
        }
    })?;
    let mut given = gifts.iter().zip(given);
    if let Some((_, first)) = given.next() {
        report.interface = first.backend.map(emit::name);
        report.id = first.id;
        report.guest_address = first.address;
    }
    let other = |(gift, given): (&Gift, Given)| Other {
        bdf: gift.bdf,
        guest_address: given.address,
    };
    report.others = given.map(other).collect();
    report.finish(start, "assigned", output)
}

/// What is not for every VMM.
fn check(args: &Assign) -> Result<(), Failure> {
    let name = args.to.kind.name();
    if args.bus.is_some() && args.to.kind != TargetKind::Qemu {
        return Err(Failure::usage(
            "--bus is for qemu: other VMMs choose the place themselves",
        ));
    }
    if args.vf_token.is_some() && !matches!(args.to.kind, TargetKind::Qemu | TargetKind::Sriovctl) {
        return Err(Failure::usage(format!(
            "--vf-token is for qemu and sriovctl: {name} cannot be told one"
        )));
    }
    if args.functions.len() > 1 && args.to.kind != TargetKind::Sriovctl {
        let failure = Failure::usage(format!(
            "several functions in one slot are for sriovctl: {name} takes one at a time"
        ));
        return Err(failure.fix("assign each by itself"));
    }
    if args.functions.len() > SLOT {
        return Err(Failure::usage(format!("a slot has {SLOT} functions at most")));
    }
    Ok(())
}

/// A function that can be given away, as it is named.
fn gift(
    selector: &Selector,
    args: &Assign,
    sysfs: &Sysfs,
    snapshot: &Snapshot,
    peer: Option<u32>,
) -> Result<Gift, Failure> {
    let bdf = selector::resolve_one(selector, &snapshot.topology, sysfs)?;
    let function = snapshot
        .topology
        .function(bdf)
        .ok_or_else(|| Failure::internal("a selected function is missing"))?;
    let group = ready::check(snapshot, function, "assign", peer)?;
    let token = token::choose(&snapshot.topology, function, args.vf_token, None, "assign")?;
    let backend = emit::backend(sysfs, function, args.interface);
    let node = emit::node(function);
    if backend == Backend::Iommufd && node.is_none() {
        let failure = failing("no_node", "has no character device of VFIO")
            .device(bdf)
            .step("assign");
        return Err(failure.fix("Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV is needed, or --interface type1"));
    }
    Ok(Gift {
        bdf,
        backend,
        is_demanded: args.interface != crate::args::Interface::Auto,
        node: format!("/dev/vfio/devices/vfio{}", node.unwrap_or_default()),
        group,
        token,
        siblings: siblings(snapshot, bdf),
    })
}

/// Takes a function back.
pub(crate) fn unassign(args: &Unassign, settings: &Settings, output: &mut Output) -> Outcome {
    let start = Instant::now();
    let mut vmm = vmm(&args.from, None, &args.virsh, args.timeout);
    let need = Snapshot::FREE | Need::fields(args.function.fields());
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let bdf = selector::resolve_one(&args.function, &snapshot.topology, &settings.sysfs)?;
    let mut report = Report::new(bdf, &args.from, vmm.removal_steps(bdf));
    if args.dry_run {
        return report.dry_run(output);
    }
    report.others = vmm.companions(bdf).map_err(|failure| on(failure, bdf))?;
    vmm.unassign(bdf).map_err(|failure| on(failure, bdf))?;
    let deadline = start + Duration::from_secs(args.timeout);
    for gone in std::iter::once(bdf).chain(report.others.iter().map(|other| other.bdf)) {
        // One that cannot be asked may have another function of the group, and keep it open.
        let mut siblings = siblings(&snapshot, gone).into_iter();
        let keeps_group = siblings.any(|sibling| vmm.has(sibling).unwrap_or(true));
        wait_until_free(&settings.sysfs, &snapshot, gone, keeps_group, deadline)?;
    }
    report.finish(start, "unassigned", output)
}

fn vmm(target: &Target, bus: Option<String>, virsh: &std::path::Path, timeout: u64) -> Box<dyn Vmm> {
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let socket = || PathBuf::from(&target.name);
    match target.kind {
        TargetKind::Qemu => Box::new(qemu::Qemu::new(socket(), bus, deadline)),
        TargetKind::CloudHypervisor => Box::new(cloud_hypervisor::CloudHypervisor::new(socket(), deadline)),
        TargetKind::Libvirt => Box::new(libvirt::Libvirt::new(virsh.to_owned(), target.name.clone(), deadline)),
        TargetKind::Sriovctl => Box::new(own::Own::new(socket(), deadline)),
    }
}

/// What is in one group with a function.
fn siblings(snapshot: &Snapshot, bdf: Bdf) -> Vec<Bdf> {
    let function = snapshot.topology.function(bdf);
    let id = function.and_then(|function| function.iommu_group.as_ref().ok().copied().flatten());
    let group = id.and_then(|id| snapshot.topology.group(id));
    let members = group.into_iter().flat_map(|group| &group.functions).copied();
    members.filter(|member| *member != bdf).collect()
}

/// A failure of a VMM that was told to take a function.
fn unsure(mut failure: Failure, to: &Target) -> Failure {
    let bdf = failure.device.map(|bdf| bdf.to_string()).unwrap_or_default();
    failure.message += "; the guest may have it, or get it yet";
    failure.fix(format!(
        "see whether somebody holds it: sriovctl status; take it back: sriovctl unassign {bdf} --from {}:{}",
        to.kind.name(),
        to.name
    ))
}

/// The VMM closes the function after it has said that it is gone, and the group with its last function.
fn wait_until_free(
    sysfs: &Sysfs,
    snapshot: &Snapshot,
    bdf: Bdf,
    keeps_group: bool,
    deadline: Instant,
) -> Result<(), Failure> {
    let before = snapshot.holders_of(bdf);
    let mut pause = Pause::until(deadline);
    loop {
        let mut held_by = Holders::scan(sysfs).of(bdf);
        held_by.retain(|holder| before.contains(holder) && !(keeps_group && is_group(&holder.path)));
        if held_by.is_empty() {
            return Ok(());
        }
        if !pause.next() {
            let mut failure = Failure::new(Exit::Busy, "held", "the VMM still has it open")
                .device(bdf)
                .step("read /proc");
            failure.held_by = held_by;
            return Err(failure.fix("wait a little and look again: sriovctl status"));
        }
    }
}

fn is_group(path: &std::path::Path) -> bool {
    path.parent() == Some(std::path::Path::new("/dev/vfio"))
}

/// By what a VMM shall know a function: letters, digits, dots and dashes are what QEMU takes.
fn id(bdf: Bdf) -> String {
    format!("sriovctl-{}", bdf.to_string().replace(':', "-"))
}

/// Opens a node, to pass it on.
fn open(path: &str) -> Result<File, Failure> {
    File::options().read(true).write(true).open(path).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Denied,
            _ => Exit::Failed,
        };
        let failure = Failure::new(exit, "open", error.to_string()).step(format!("open {path}"));
        failure.fix("run as root, or let yourself at it with a udev rule; or use --interface type1")
    })
}

fn on(mut failure: Failure, bdf: Bdf) -> Failure {
    failure.device.get_or_insert(bdf);
    failure
}

/// A connection that did not work.
fn wire_failure(step: &str, error: &io::Error) -> Failure {
    let (exit, kind, message) = match error.kind() {
        io::ErrorKind::TimedOut => (Exit::Failed, "timed_out", "no answer in time".to_owned()),
        io::ErrorKind::UnexpectedEof => (Exit::Failed, "connection", "it ends the connection".to_owned()),
        io::ErrorKind::PermissionDenied => (Exit::Denied, "denied", error.to_string()),
        io::ErrorKind::InvalidData => (Exit::Failed, "malformed", error.to_string()),
        _ => (Exit::Failed, "connection", error.to_string()),
    };
    Failure::new(exit, kind, message).step(step)
}

/// The kind of failure of a VMM that was asked and has not done it.
const REFUSED: &str = "refused";

fn is_refused<T>(outcome: &Result<T, Failure>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.kind == REFUSED)
}

/// A failure, with the exit code that its kind has.
fn failing(kind: &'static str, message: impl Into<String>) -> Failure {
    let exit = match kind {
        "assigned" => Exit::Busy,
        "read_back" => Exit::ReadBack,
        _ => Exit::Failed,
    };
    Failure::new(exit, kind, message)
}

/// Pauses between two looks at what tells nobody when it changes.
#[derive(Debug)]
struct Pause {
    deadline: Instant,
    next: Duration,
}

impl Pause {
    const LONGEST: Duration = Duration::from_millis(250);

    fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            next: Duration::from_millis(5),
        }
    }

    /// Pauses once; `false` when the deadline has passed by then.
    fn next(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: self.next.min(left).subsec_nanos().into(),
        };
        // An interruption only makes it shorter.
        let _interrupted = poll(&mut [], Some(&pause)).is_err();
        self.next = (self.next * 2).min(Self::LONGEST);
        Instant::now() < self.deadline
    }
}
