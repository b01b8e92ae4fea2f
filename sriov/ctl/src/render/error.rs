//! The shape of errors, as text and as JSON.

use super::style;
use super::table::printable;
use crate::failure::Failure;
use crate::output::SCHEMA_VERSION;
use crate::view;
use serde::Serialize;
use std::fmt;

/// A failure as text:
///
/// ```text
/// error: 0000:01:10.0: write sriov_numvfs: device or resource busy
///   held by  qemu-system-x86 (pid 4711) through /dev/vfio/devices/vfio3
///   fix      stop that process
/// hint: more about this: sriovctl explain S02
/// ```
pub(crate) struct Text<'a>(pub(crate) &'a Failure);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = self.0;
        let (error, hint) = (style::ERROR, style::NOTE);
        write!(f, "{error}error:{error:#} ")?;
        if let Some(device) = failure.device {
            write!(f, "{device}: ")?;
        }
        if let Some(step) = &failure.step {
            write!(f, "{step}: ")?;
        }
        writeln!(f, "{}", printable(&failure.message))?;
        for holder in &failure.held_by {
            detail(f, "held by", &holder.to_string())?;
        }
        for cause in &failure.causes {
            detail(f, "because", cause)?;
        }
        if let Some(fix) = &failure.fix {
            detail(f, "fix", fix)?;
        }
        for text in &failure.hints {
            writeln!(f, "{hint}hint:{hint:#} {}", printable(text))?;
        }
        if let Some(code) = failure.code {
            writeln!(f, "{hint}hint:{hint:#} more about this: sriovctl explain {code}")?;
        }
        Ok(())
    }
}

/// An aligned line below the error; further lines of its text keep the column.
fn detail(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    for (index, line) in text.lines().enumerate() {
        let label = if index == 0 { label } else { "" };
        writeln!(f, "  {label:<7}  {}", printable(line))?;
    }
    Ok(())
}

/// A failure as the one document of the run.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    schema_version: u32,
    error: Body<'a>,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    code: Option<&'a str>,
    device: Option<String>,
    step: Option<&'a str>,
    kind: &'a str,
    message: &'a str,
    causes: &'a [String],
    held_by: Vec<view::Holder>,
    fix: Option<&'a str>,
    hints: &'a [String],
    exit_code: u8,
}

impl<'a> Document<'a> {
    pub(crate) fn new(failure: &'a Failure) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            error: Body {
                code: failure.code,
                device: failure.device.map(|device| device.to_string()),
                step: failure.step.as_deref(),
                kind: failure.kind,
                message: &failure.message,
                causes: &failure.causes,
                held_by: failure.held_by.iter().map(view::Holder::from).collect(),
                fix: failure.fix.as_deref(),
                hints: &failure.hints,
                exit_code: failure.exit.code(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn held() -> Failure {
        let mut failure = Failure::new(Exit::Busy, "held", "device or resource busy")
            .device("0000:01:10.0".parse().unwrap())
            .step("VFIO_DEVICE_BIND_IOMMUFD")
            .fix("stop that process, or choose a free function: sriovctl list --free")
            .code("S02");
        failure.held_by.push(sriov::Holder {
            function: None,
            pid: 4711,
            command: "qemu-system-x86".to_owned(),
            command_line: String::new(),
            path: "/dev/vfio/devices/vfio3".into(),
        });
        failure
    }

    #[test]
    fn text_has_the_documented_shape() {
        let text = anstream::adapter::strip_str(&Text(&held()).to_string()).to_string();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn json_omits_nothing() {
        let text = serde_json::to_string_pretty(&Document::new(&Failure::usage("no"))).unwrap();
        insta::assert_snapshot!(text);
    }
}
