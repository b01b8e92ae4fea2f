//! What came of a change: steps and their times, and the functions as they are now.

use crate::column::Value;
use crate::describe::count;
use crate::failure::Failure;
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::table::Table;
use crate::view::step::{StepView, describe};
use pci::{Bdf, Fields, Function, Topology};
use serde::Serialize;
use sriov::{Applied, Plan, Progress};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What [`Report::write`] shows of functions.
pub(super) const FIELDS: Fields = Fields::DRIVER
    .union(Fields::GROUP)
    .union(Fields::SRIOV)
    .union(Fields::CLASS_DEVICES);

/// When each step began.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    began: BTreeMap<usize, Duration>,
}

impl Timeline {
    pub(super) fn record(&mut self, progress: &Progress<'_>) {
        if !progress.undoing {
            self.began.insert(progress.number, progress.elapsed);
        }
    }

    /// How long the step of this number took: until the next one began, or the end.
    fn duration(&self, number: usize, end: Duration) -> Option<Duration> {
        let began = self.began.get(&number)?;
        let ended = self.began.get(&(number + 1)).unwrap_or(&end);
        Some(ended.saturating_sub(*began))
    }
}

/// A change as the document of the run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema_version: u32,
    /// Its id in the journal; `null` when nothing was done.
    operation: Option<u64>,
    steps: Vec<TimedStep>,
    warnings: Vec<String>,
    /// How many steps changed something; `null` for a plan alone.
    changed: Option<usize>,
    elapsed_ms: Option<f64>,
    /// Time by kind of step.
    timing: Vec<Timing>,
    /// The functions afterwards; `null` for a plan alone.
    functions: Option<Vec<FunctionView>>,
}

#[derive(Debug, Clone, Serialize)]
struct TimedStep {
    #[serde(flatten)]
    step: StepView,
    elapsed_ms: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
struct Timing {
    step: String,
    count: usize,
    elapsed_ms: f64,
}

#[derive(Debug, Clone, Serialize)]
struct FunctionView {
    bdf: String,
    driver: Option<String>,
    group: Option<u32>,
    enabled_vfs: Option<usize>,
    vf_of: Option<String>,
    vf_index: Option<u16>,
    devices: Vec<String>,
}

impl Report {
    /// A plan that was not applied, or had nothing to do.
    pub(super) fn planned(plan: &Plan) -> Self {
        let steps = plan.steps.iter().map(|step| TimedStep {
            step: step.into(),
            elapsed_ms: None,
        });
        Self {
            schema_version: SCHEMA_VERSION,
            operation: None,
            steps: steps.collect(),
            warnings: plan.warnings.clone(),
            changed: None,
            elapsed_ms: None,
            timing: Vec::new(),
            functions: None,
        }
    }

    /// A plan that was applied.
    pub(super) fn applied(plan: &Plan, applied: &Applied, timeline: &Timeline) -> Self {
        let mut report = Self::planned(plan);
        let mut order: Vec<Timing> = Vec::new();
        for ((number, step), timed) in (1..).zip(&plan.steps).zip(&mut report.steps) {
            let elapsed = timeline.duration(number, applied.elapsed).unwrap_or_default();
            timed.elapsed_ms = Some(milliseconds(elapsed));
            let text = describe(&step.action);
            match order.iter_mut().find(|timing| timing.step == text) {
                Some(timing) => {
                    timing.count += 1;
                    timing.elapsed_ms += milliseconds(elapsed);
                }
                None => order.push(Timing {
                    step: text,
                    count: 1,
                    elapsed_ms: milliseconds(elapsed),
                }),
            }
        }
        report.operation = applied.operation;
        report.changed = Some(applied.changed);
        report.elapsed_ms = Some(milliseconds(applied.elapsed));
        report.timing = order;
        report
    }

    /// Writes the report with the functions as they are now.
    pub(super) fn write(
        mut self,
        topology: &Topology,
        functions: &BTreeSet<Bdf>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let functions = functions.iter().filter_map(|bdf| topology.function(*bdf));
        if output.is_json() {
            self.changed = self.changed.or(Some(0));
            self.functions = Some(functions.map(FunctionView::from).collect());
            return output.document(&self);
        }
        for warning in self.warnings.iter().filter(|_| self.operation.is_none()) {
            output.warn(warning);
        }
        self.talk(output);
        let mut table = Table::aligned([
            ("bdf", false),
            ("driver", false),
            ("group", true),
            ("sriov", false),
            ("devices", false),
        ]);
        for function in functions {
            let devices = function
                .class_devices
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect();
            let driver = optional(function.driver.clone().ok().flatten());
            let group = function
                .iommu_group
                .clone()
                .ok()
                .flatten()
                .map(|group| group.0.to_string());
            let cells = [Value::Text(function.bdf.to_string().into()), driver, optional(group)];
            table.row(
                cells
                    .into_iter()
                    .chain([crate::column::sriov(function), Value::List(devices)]),
            );
        }
        Ok(table.write(output.data(), true)?)
    }

    /// Times, and how to take it back.
    fn talk(&self, output: &mut Output) {
        let (Some(id), Some(elapsed)) = (self.operation, self.elapsed_ms) else {
            output.note("nothing to do: the machine is as wanted");
            return;
        };
        let mut table = Table::aligned([("ms", true), ("steps", true), ("action", false)]);
        for timing in &self.timing {
            table.row([
                format!("{:.1}", timing.elapsed_ms),
                timing.count.to_string(),
                timing.step.clone(),
            ]);
        }
        let mut text = Vec::new();
        if table.write(&mut text, true).is_ok() {
            output.talk(format_args!("{}", String::from_utf8_lossy(&text)));
        }
        let steps = count(self.steps.len(), "step");
        let changed = count(self.changed.unwrap_or_default(), "change");
        output.note(format_args!(
            "operation {id}: {steps}, {changed}, in {:.3} s; take it back with sriovctl undo {id}",
            elapsed / 1000.0
        ));
    }
}

impl From<&Function> for FunctionView {
    fn from(function: &Function) -> Self {
        let vf = function.vf_of.as_ref().ok().and_then(Option::as_ref);
        let sriov = function.sriov.as_ref().ok().and_then(Option::as_ref);
        Self {
            bdf: function.bdf.to_string(),
            driver: function.driver.clone().ok().flatten(),
            group: function.iommu_group.clone().ok().flatten().map(|group| group.0),
            enabled_vfs: sriov.map(|sriov| sriov.virtual_functions.len()),
            vf_of: vf.map(|vf| vf.pf.to_string()),
            vf_index: vf.and_then(|vf| vf.index.as_ref().ok()).map(|index| index.0),
            devices: function
                .class_devices
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

fn optional(text: Option<String>) -> Value<'static> {
    text.map_or(Value::None, |text| Value::Text(text.into()))
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
