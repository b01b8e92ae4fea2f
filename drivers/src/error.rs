//! The crate's error: which device, what was being done, what went wrong, and what helps.

use pci::Bdf;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A step of a driver that failed.
#[derive(Debug, Clone)]
pub struct Error {
    /// The function, where it is known.
    pub device: Option<Bdf>,
    /// What was being done, in the words of the device's specification.
    pub step: Cow<'static, str>,
    /// What went wrong.
    pub kind: ErrorKind,
}

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device was removed, or its owner asks for it back: nothing that is asked of it will be done.
    #[error("the device is gone, or is to be given back")]
    Gone,
    /// The device did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The device says that it has failed, or does what its specification forbids. It has to be reset.
    #[error("the device has failed: {0}")]
    Failed(Cow<'static, str>),
    /// The device refuses: its status.
    #[error("refused: {0}")]
    Refused(Cow<'static, str>),
    /// A queue is full: something has to end first.
    #[error("the queue is full")]
    Busy,
    /// The request cannot be expressed or makes no sense; says why.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// The device cannot do this; says what is missing.
    #[error("not supported: {0}")]
    Unsupported(Cow<'static, str>),
    /// Memory, an interrupt or the function itself could not be had; says which call of the kernel failed.
    #[error(transparent)]
    Kernel(#[from] iommu::Error),
}

/// What the functions of this crate give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `step`.
    #[must_use]
    pub fn new(device: Option<Bdf>, step: impl Into<Cow<'static, str>>, kind: ErrorKind) -> Self {
        Self {
            device,
            step: step.into(),
            kind,
        }
    }

    /// Whether the device is gone, in this crate's words or the kernel's.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match &self.kind {
            ErrorKind::Gone => true,
            ErrorKind::Kernel(iommu::Error::Kernel(error)) => matches!(error.kind, vfio_core::ErrorKind::Gone(_)),
            _ => false,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        match &self.kind {
            ErrorKind::Gone => Some("close the device; open it again once it is back"),
            ErrorKind::Timeout(_) | ErrorKind::Failed(_) => Some("open it again, which resets it"),
            ErrorKind::Kernel(iommu::Error::Kernel(error)) => error.fix(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel's names its device and its step itself.
        if let ErrorKind::Kernel(iommu::Error::Kernel(error)) = &self.kind {
            return write!(f, "{}: {error}", self.step);
        }
        if let Some(device) = self.device {
            write!(f, "{device}: ")?;
        }
        write!(f, "{}: {}", self.step, self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Display says all of the kind; what caused that is next.
        std::error::Error::source(&self.kind)
    }
}

impl From<vfio_core::Error> for ErrorKind {
    fn from(error: vfio_core::Error) -> Self {
        Self::Kernel(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_device_step_and_cause_once() {
        let bdf: Bdf = "0000:01:00.0".parse().unwrap();
        let error = Error::new(Some(bdf), "CC.EN", ErrorKind::Timeout(Duration::from_millis(500)));
        assert_eq!(error.to_string(), "0000:01:00.0: CC.EN: no answer within 500 ms");
        assert!(error.fix().is_some());
        let kernel =
            vfio_core::Error::new("VFIO_DEVICE_RESET", vfio_core::ErrorKind::Gone(vfio_core::Errno::NODEV)).on(bdf);
        let error = Error::new(Some(bdf), "reset", kernel.into());
        assert_eq!(
            error.to_string(),
            "reset: 0000:01:00.0: VFIO_DEVICE_RESET: the device is gone: no such device"
        );
        assert!(error.is_gone());
    }
}
