//! VF tokens: what the kernel opens a VF of a PF on vfio-pci with, and nothing else.
//!
//! Follows `vfio_pci_core_match_token_uuid` of Linux: a token that is missing, and one too many, are both refused.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::snapshot::is_on_vfio;
use pci::{Function, Topology};
use vfio_core::VfToken;

/// The token that a function is opened with: its own, or else the one for all that take one.
///
/// # Errors
///
/// For a VF of a PF on a VFIO driver without any, and for another function with its own.
pub(super) fn choose(
    topology: &Topology,
    function: &Function,
    own: Option<VfToken>,
    common: Option<VfToken>,
    step: &'static str,
) -> Result<Option<VfToken>, Failure> {
    let pf = match &function.vf_of {
        Ok(Some(of)) => of.pf,
        // The first user of a PF sets the token of its VFs, and later ones need it.
        _ if matches!(function.sriov, Ok(Some(_))) => return Ok(own.or(common)),
        _ => return none(function, own, "it is neither a PF nor a VF", step),
    };
    if !topology.function(pf).is_some_and(is_on_vfio) {
        return none(function, own, "its PF is on no VFIO driver", step);
    }
    own.or(common).map(Some).ok_or_else(|| {
        let message =
            format!("is a VF of {pf}, which is on a VFIO driver: it opens only with the VF token of that one's user");
        let failure = Failure::new(Exit::Denied, "vf_token", message)
            .device(function.bdf)
            .step(step);
        failure.fix("give the token that the user of the PF has set: --vf-token UUID")
    })
}

/// A text without the tokens in it: what a program reports is kept and passed on, and a token is what keeps others from a function.
pub(super) fn hidden(text: &str, tokens: impl IntoIterator<Item = VfToken>) -> String {
    let hide = |text: String, token: VfToken| text.replace(&token.to_string(), "(not shown)");
    tokens.into_iter().fold(text.to_owned(), hide)
}

fn none(function: &Function, own: Option<VfToken>, why: &str, step: &'static str) -> Result<Option<VfToken>, Failure> {
    if own.is_none() {
        return Ok(None);
    }
    let failure = Failure::usage(format!("takes no VF token: {why}"))
        .device(function.bdf)
        .step(step);
    Err(failure.fix("leave its token out"))
}
