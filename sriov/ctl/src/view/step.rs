//! Steps of plans and of the journal.

use serde::Serialize;
use sriov::{Action, Step, Target};

/// One step.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StepView {
    /// The function that changes; `null` for a VF that may not exist yet.
    bdf: Option<String>,
    /// For a VF by index: its PF.
    pf: Option<String>,
    vf_index: Option<u16>,
    /// As errors name it: `write sriov_numvfs`.
    step: String,
    /// `set`, `unbind`, `probe` or `wait`.
    action: &'static str,
    /// The file that is written, if one is.
    path: Option<String>,
    /// What is written. An empty text clears a `driver_override`.
    value: Option<String>,
    /// For `probe`: the driver that must have the function afterwards.
    driver: Option<String>,
    /// For `wait`: for how long.
    deadline_ms: Option<u64>,
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        let (bdf, pf, vf_index) = match step.target {
            Target::Function(bdf) => (Some(bdf.to_string()), None, None),
            Target::VirtualFunction { pf, index } => (None, Some(pf.to_string()), Some(index.0)),
        };
        let directory = format!("/{}", step.target.directory().display());
        let mut view = Self {
            bdf,
            pf,
            vf_index,
            step: step.action.to_string(),
            action: "",
            path: None,
            value: None,
            driver: None,
            deadline_ms: None,
        };
        match &step.action {
            Action::Set { attribute, value } => {
                view.action = "set";
                view.path = Some(format!("{directory}/{}", attribute.file_name()));
                view.value = Some(value.clone());
            }
            Action::Unbind => {
                view.action = "unbind";
                view.path = Some(format!("{directory}/driver/unbind"));
            }
            Action::Probe { driver } => {
                view.action = "probe";
                view.path = Some(match driver {
                    Some(driver) => format!("/sys/bus/pci/drivers/{driver}/bind"),
                    None => "/sys/bus/pci/drivers_probe".to_owned(),
                });
                view.driver.clone_from(driver);
            }
            Action::Wait { deadline, .. } => {
                view.action = "wait";
                view.deadline_ms = u64::try_from(deadline.as_millis()).ok();
            }
            _ => view.action = "other",
        }
        view
    }
}

/// The step in a few words: `write sriov_numvfs = 4`.
pub(crate) fn describe(action: &Action) -> String {
    match action {
        Action::Set { value, .. } if value.is_empty() => format!("{action} = (none)"),
        Action::Set { value, .. } => format!("{action} = {value}"),
        other => other.to_string(),
    }
}
