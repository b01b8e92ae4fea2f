//! The interrupt line of a function: asserted by the device, masked by the kernel at once, and unmasked when the guest has ended the interrupt
//! (resample), all without an exit.

use crate::Result;
use crate::interrupt::{Irqs, Line};
use std::sync::Arc;
use vfio_core::{BoundDevice, Interrupts, IrqIndex};

/// The line of a function that has one.
#[derive(Debug)]
pub(super) struct Intx {
    // Fields drop in this order: the device signals nothing any more before the line goes.
    interrupts: Interrupts,
    line: Option<Box<dyn Line>>,
    irqs: Arc<dyn Irqs>,
    gsi: u32,
}

impl Intx {
    /// `None` if the function has no line.
    pub(super) fn new(device: &BoundDevice, gsi: u32, irqs: &Arc<dyn Irqs>) -> Result<Option<Self>> {
        let interrupts = device.interrupts(IrqIndex::Intx)?;
        let has_one = interrupts.info().count != 0;
        let irqs = Arc::clone(irqs);
        Ok(has_one.then_some(Self {
            interrupts,
            line: None,
            irqs,
            gsi,
        }))
    }

    /// Lets it interrupt the guest. Not while MSI or MSI-X is enabled.
    pub(super) fn enable(&mut self) -> Result<()> {
        if self.line.is_some() {
            return Ok(());
        }
        let line = self.irqs.line(self.gsi)?;
        self.interrupts.enable(0, &[Some(line.event())])?;
        if let Err(error) = self.interrupts.set_resample(0, Some(line.resample())) {
            self.interrupts.disable()?;
            return Err(error.into());
        }
        self.line = Some(line);
        Ok(())
    }

    /// Keeps it from doing so.
    pub(super) fn disable(&mut self) -> Result<()> {
        if self.line.is_some() {
            self.interrupts.disable()?;
            self.line = None;
        }
        Ok(())
    }
}
