//! What forbids to take functions away: processes that hold them, and the machine's own uses. Decides on what was gathered,
//! looks at nothing itself.

use crate::driver::is_vfio;
use crate::{Error, ErrorKind, Holder, Holders, Usage, Use};
use pci::{Bdf, Function};

/// Everything that is in the way, not only the first thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The function that was to be changed: for VFs that are to go, their PF.
    pub device: Bdf,
    /// Who holds functions.
    pub held: Vec<Holder>,
    /// What functions are used for.
    pub uses: Vec<(Bdf, Use)>,
}

/// Whether `functions` may be taken away for the sake of a change to `device`.
///
/// # Errors
/// The [`Refusal`] with all reasons.
pub fn check(device: Bdf, functions: &[&Function], usage: &Usage, holders: &Holders) -> Result<(), Refusal> {
    let mut held: Vec<Holder> = functions.iter().flat_map(|function| holders.of(function.bdf)).collect();
    // Nobody can say which of the functions on VFIO drivers such a process has.
    if functions
        .iter()
        .any(|function| matches!(&function.driver, Ok(Some(driver)) if is_vfio(driver)))
    {
        held.extend(holders.unnamed());
    }
    let of = |function: &Function| {
        usage
            .of(function.bdf)
            .iter()
            .map(|used| (function.bdf, used.clone()))
            .collect()
    };
    let uses: Vec<(Bdf, Use)> = functions
        .iter()
        .flat_map(|function| -> Vec<_> { of(function) })
        .collect();
    if held.is_empty() && uses.is_empty() {
        return Ok(());
    }
    Err(Refusal { device, held, uses })
}

impl Refusal {
    /// The refusal as the error of a step.
    #[must_use]
    pub fn into_error(self, step: impl Into<String>) -> Error {
        let Self { device, held, uses } = self;
        let of = |function: Option<Bdf>| match function {
            Some(function) if function != device => format!("{function}: "),
            _ => String::new(),
        };
        let kind = if uses.is_empty() {
            ErrorKind::Held { holders: held }
        } else {
            let holders = held
                .iter()
                .map(|holder| format!("{}held by {holder}", of(holder.function)));
            let uses = uses
                .iter()
                .map(|(function, used)| format!("{}{used}", of(Some(*function))));
            ErrorKind::InUse {
                uses: holders.chain(uses).collect(),
            }
        };
        Error::new(device, step, kind)
    }
}
