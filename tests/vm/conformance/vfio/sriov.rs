//! `vfio_pci_sriov_uapi_test`: a VF of a PF on vfio-pci opens with the PF's token, and with no other.

use crate::PASSED;
use crate::context::{Context, Mode};
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Context as _, Result, ensure};
use lab::case::Outcome;
use vfio_core::{BoundDevice, ErrorKind, VfToken};

/// The token of the PF, and another.
const FIRST: VfToken = VfToken(*b"\x52\xac\x9b\xff\x3a\x88\x4f\xbd\x90\x1a\x0d\x76\x7c\x3b\x6c\x97");
const SECOND: VfToken = VfToken(*b"\x88\x59\x46\x74\x90\xa0\x47\xa9\xae\xa8\x9d\x9b\x35\x2a\xc0\x8a");

pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    let tokens = [
        ("same_uuid", Some(FIRST)),
        ("diff_uuid", Some(SECOND)),
        ("null_uuid", None),
    ];
    let tests: [(&str, Test); 3] = [
        ("init_token_match", init_token_match),
        ("pf_early_close", pf_early_close),
        ("override_token", override_token),
    ];
    let mut cases = Vec::new();
    for (kind, token) in tokens {
        for mode in modes {
            for (test, run) in tests {
                let mode = *mode;
                let name = format!("conf_vfio_pci_sriov_uapi_test.{}_{kind}.{test}", mode.name());
                cases.push(Case::new(name, move |staged| run(staged, mode, token)));
            }
        }
    }
    cases
}

type Test = fn(&Staged, Mode, Option<VfToken>) -> Result<Outcome>;

fn open_pf(staged: &Staged, mode: Mode) -> Result<(Context, BoundDevice)> {
    let context = Context::open(mode)?;
    let pf = context
        .device_with(staged.pf()?, Some(FIRST))?
        .context("the PF with its token")?;
    Ok((context, pf))
}

/// The VF opens exactly if the token is the right one.
fn check_vf(context: &Context, staged: &Staged, token: Option<VfToken>, right: VfToken) -> Result<Outcome> {
    match (context.device_with(staged.vf()?, token)?, token == Some(right)) {
        (Ok(vf), true) => ensure!(vf.config()?.image().is_ok(), "it cannot be read"),
        (Ok(_), false) => anyhow::bail!("the VF opens without the right token"),
        (Err(error), true) => return Err(error).context("the right token"),
        (Err(error), false) => ensure!(
            error.kind == ErrorKind::Token,
            "it is refused, and not for the token: {error}"
        ),
    }
    PASSED
}

fn init_token_match(staged: &Staged, mode: Mode, token: Option<VfToken>) -> Result<Outcome> {
    let (context, pf) = open_pf(staged, mode)?;
    let outcome = check_vf(&context, staged, token, FIRST);
    drop(pf);
    outcome
}

/// The token outlives the PF's user.
fn pf_early_close(staged: &Staged, mode: Mode, token: Option<VfToken>) -> Result<Outcome> {
    let (context, pf) = open_pf(staged, mode)?;
    drop(pf);
    check_vf(&context, staged, token, FIRST)
}

fn override_token(staged: &Staged, mode: Mode, token: Option<VfToken>) -> Result<Outcome> {
    let (context, pf) = open_pf(staged, mode)?;
    pf.set_vf_token(SECOND)?;
    let outcome = check_vf(&context, staged, token, SECOND);
    drop(pf);
    outcome
}
