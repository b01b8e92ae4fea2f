//! The commands that change the machine: plan, show the plan, ask where something is lost, apply, show what came of it.

mod interrupt;
mod plan_text;
mod report;
mod session;
pub(super) mod undo;

use crate::args::Force;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::request::{Change, Consent, Mode, Settings, Verb};
use crate::selector::{self, Selector};
use pci::{Bdf, Sysfs, Topology};
use report::{Report, Timeline};
use session::Session;
use sriov::{Access, Deadlines, Machine, Plan, Use, WantedDriver, WorkerAccess, plan};
use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::str::FromStr as _;

/// Plans a change, or makes it.
pub(super) fn run(change: &Change, settings: &Settings, output: &mut Output) -> Outcome {
    match &change.mode {
        Mode::Plan { check } => dry_run(&change.verb, *check, settings, output),
        Mode::Apply(consent) => apply(&change.verb, consent, settings, output),
    }
}

fn dry_run(verb: &Verb, check: bool, settings: &Settings, output: &mut Output) -> Outcome {
    let mut access = WorkerAccess::new(settings.sysfs.clone(), super::worker::command(&settings.sysfs));
    let wish = Wish::new(verb, &settings.sysfs)?;
    let (plan, _) = wish.plan(&settings.sysfs, &mut access, &[])?;
    if output.is_json() {
        output.document(&Report::planned(&plan))?;
    } else {
        plan_text::write(&plan, output)?;
    }
    let is_due = check && !plan.steps.is_empty();
    Ok(if is_due { Exit::PlanNotEmpty } else { Exit::Ok })
}

fn apply(verb: &Verb, consent: &Consent, settings: &Settings, output: &mut Output) -> Outcome {
    session::require_root()?;
    let mut session = Session::begin(settings, consent, output)?;
    let wish = Wish::new(verb, &settings.sysfs)?;
    let (plan, lost) = wish.plan(&settings.sysfs, session.access(), &consent.force)?;
    if plan.steps.is_empty() {
        return finish(Report::planned(&plan), &wish, settings, output);
    }
    plan_text::talk(&plan, settings.verbose, output);
    session::confirm(&lost, consent, output)?;
    // The answer may have taken its time.
    let plan = if lost.is_empty() {
        plan
    } else {
        wish.plan(&settings.sysfs, session.access(), &consent.force)?.0
    };
    let mut timeline = Timeline::default();
    let applied = session.apply(&plan, &mut timeline, settings, output)?;
    finish(Report::applied(&plan, &applied, &timeline), &wish, settings, output)
}

/// Shows what was done, and the functions as they are now.
fn finish(report: Report, wish: &Wish, settings: &Settings, output: &mut Output) -> Outcome {
    let topology = Topology::read_fields(&settings.sysfs, report::FIELDS)?;
    let functions = wish.functions_after(&topology);
    report.write(&topology, &functions, output)?;
    Ok(Exit::Ok)
}

/// What is wanted, with the functions it is wanted for.
enum Wish {
    CreateVfs {
        pf: Bdf,
        count: NonZeroU16,
        driver: Option<WantedDriver>,
    },
    DeleteVfs(Bdf),
    Bind(Vec<Bdf>, WantedDriver),
    Unbind(Vec<Bdf>),
    Release(Vec<Bdf>),
}

impl Wish {
    /// Resolves the selectors. Nothing is done for a part of what was named.
    fn new(verb: &Verb, sysfs: &Sysfs) -> Result<Self, Failure> {
        let read = |selectors: &[Selector]| Topology::read_fields(sysfs, selector::fields(selectors));
        let all = |selectors: &[Selector]| -> Result<Vec<Bdf>, Failure> {
            let topology = read(selectors)?;
            let selection = selector::resolve(selectors, &topology, sysfs)?;
            Ok(selection.complete(&topology)?.into_iter().collect())
        };
        let one = |selector: &Selector| -> Result<Bdf, Failure> {
            selector::resolve_one(selector, &read(std::slice::from_ref(selector))?, sysfs)
        };
        Ok(match verb {
            Verb::CreateVfs { pf, count, driver } => Self::CreateVfs {
                pf: one(pf)?,
                count: *count,
                driver: driver.as_deref().map(wanted_driver),
            },
            Verb::DeleteVfs { pf } => Self::DeleteVfs(one(pf)?),
            Verb::Bind { functions, driver } => Self::Bind(all(functions)?, wanted_driver(driver)),
            Verb::Unbind { functions } => Self::Unbind(all(functions)?),
            Verb::Release { functions } => Self::Release(all(functions)?),
        })
    }

    /// The plan, and the uses of the functions that the user agreed to lose.
    fn plan(
        &self,
        sysfs: &Sysfs,
        access: &mut dyn Access,
        force: &[Force],
    ) -> Result<(Plan, Vec<(Bdf, Use)>), Failure> {
        let mut machine = Machine::read(sysfs, access, &Deadlines::default(), &self.targets())?;
        let lost = self.agreed_losses(&machine, force);
        machine.usage.waive(|used| force.contains(&session::force_for(used)));
        let plan = match self {
            Self::CreateVfs { pf, count, driver } => plan::create_vfs(&machine, *pf, *count, driver.as_ref()),
            Self::DeleteVfs(pf) => plan::delete_vfs(&machine, *pf),
            Self::Bind(functions, driver) => plan::bind(&machine, functions, driver),
            Self::Unbind(functions) => plan::unbind(&machine, functions),
            Self::Release(functions) => plan::release(&machine, functions),
        };
        Ok((plan?, lost))
    }

    fn agreed_losses(&self, machine: &Machine, force: &[Force]) -> Vec<(Bdf, Use)> {
        let targets = self.targets();
        let vfs = targets
            .iter()
            .flat_map(|pf| machine.topology.virtual_functions(*pf))
            .map(|vf| vf.bdf);
        let touched: BTreeSet<Bdf> = targets.iter().copied().chain(vfs).collect();
        let uses = touched
            .iter()
            .flat_map(|bdf| machine.usage.of(*bdf).iter().map(|used| (*bdf, used.clone())));
        uses.filter(|(_, used)| force.contains(&session::force_for(used)))
            .collect()
    }

    fn targets(&self) -> Vec<Bdf> {
        match self {
            Self::CreateVfs { pf, .. } | Self::DeleteVfs(pf) => vec![*pf],
            Self::Bind(functions, _) | Self::Unbind(functions) | Self::Release(functions) => functions.clone(),
        }
    }

    /// The functions to show when it is done: for a PF, its VFs too.
    fn functions_after(&self, topology: &Topology) -> BTreeSet<Bdf> {
        let targets = self.targets();
        let vfs = match self {
            Self::CreateVfs { pf, .. } => topology.virtual_functions(*pf).map(|vf| vf.bdf).collect(),
            _ => Vec::new(),
        };
        targets.into_iter().chain(vfs).collect()
    }
}

fn wanted_driver(name: &str) -> WantedDriver {
    let Ok(driver) = WantedDriver::from_str(name);
    driver
}
