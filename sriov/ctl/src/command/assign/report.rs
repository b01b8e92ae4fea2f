//! What `assign` and `unassign` say that they have done.

use super::Step;
use crate::args::Target;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use pci::Bdf;
use serde::{Serialize, Serializer};
use std::io::Write as _;
use std::time::Instant;

/// Another function of the slot.
#[derive(Serialize)]
pub(super) struct Other {
    #[serde(serialize_with = "as_text")]
    pub(super) bdf: Bdf,
    pub(super) guest_address: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Report {
    schema_version: u32,
    pub(super) bdf: String,
    vmm: &'static str,
    target: String,
    /// `null` where the VMM does not say.
    pub(super) id: Option<String>,
    /// `null` where the VMM does not say.
    pub(super) interface: Option<&'static str>,
    /// `null` where the VMM does not say.
    pub(super) guest_address: Option<String>,
    /// What was put into the same slot, or has left it too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<Other>,
    /// What was said, or would be, but for a VF token.
    steps: Vec<Step>,
    /// `null` with `--dry-run`.
    elapsed_ms: Option<u64>,
}

impl Report {
    pub(super) fn new(bdf: Bdf, target: &Target, steps: Vec<Step>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            bdf: bdf.to_string(),
            vmm: target.kind.name(),
            target: target.name.clone(),
            id: None,
            interface: None,
            guest_address: None,
            others: Vec::new(),
            steps,
            elapsed_ms: None,
        }
    }

    pub(super) fn dry_run(&self, output: &mut Output) -> Outcome {
        if output.is_json() {
            output.document(self)?;
            return Ok(Exit::Ok);
        }
        for Step { request, with } in &self.steps {
            match with {
                Some(file) => writeln!(output.data(), "{request}  with the descriptor of {file}")?,
                None => writeln!(output.data(), "{request}")?,
            }
        }
        Ok(Exit::Ok)
    }

    pub(super) fn finish(mut self, start: Instant, done: &str, output: &mut Output) -> Outcome {
        self.elapsed_ms = u64::try_from(start.elapsed().as_millis()).ok();
        if output.is_json() {
            output.document(&self)?;
            return Ok(Exit::Ok);
        }
        let at = self.guest_address.as_ref();
        let at = at.map_or_else(String::new, |address| format!(", {address} in the guest"));
        let by = self
            .interface
            .map_or_else(String::new, |interface| format!(", {interface}"));
        writeln!(output.data(), "{}: {done}{at}{by}", self.bdf)?;
        for other in &self.others {
            let at = other.guest_address.as_deref().unwrap_or("the same slot");
            writeln!(output.data(), "{}: {done}, {at} in the guest{by}", other.bdf)?;
        }
        Ok(Exit::Ok)
    }
}

fn as_text<S: Serializer>(bdf: &Bdf, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(bdf)
}
