//! The functions of the host, as the machine sees them.

use crate::Result;
use std::fmt;

/// What a machine asks of the functions in it.
pub trait Plugged: fmt::Debug + Send + Sync {
    /// Resets them all, as the machine's reset does. No processor runs meanwhile.
    ///
    /// # Errors
    ///
    /// For a function that could not be reset: the machine ends, since it might still do DMA.
    fn reset(&self) -> Result<()>;

    /// Takes away the slots of functions that do not decode memory: a processor has reached for memory that is not there (`KVM_RUN` gives EFAULT). Whether
    /// there were any. Called by the processor's thread, which tries again a few times in any case.
    fn drop_silent_slots(&self) -> bool;

    /// Takes them all from the guest: the machine ends, and no processor runs any more.
    ///
    /// # Errors
    ///
    /// The first of the kernel's; the rest is done all the same.
    fn stop(&self) -> Result<()>;
}

/// A machine without functions.
#[derive(Debug)]
pub(super) struct Nothing;

impl Plugged for Nothing {
    fn reset(&self) -> Result<()> {
        Ok(())
    }

    fn drop_silent_slots(&self) -> bool {
        false
    }

    fn stop(&self) -> Result<()> {
        Ok(())
    }
}
