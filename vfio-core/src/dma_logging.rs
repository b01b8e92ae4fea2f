//! The log of its own DMA writes that a device keeps.
//!
//! Follows `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`, `_STOP` and `_REPORT` of `include/uapi/linux/vfio.h`.

use crate::{BoundDevice, DirtyBitmap, Error, ErrorKind, Feature, IovaRange};

/// A log that is being kept. Ends when dropped; holds the device open.
#[derive(Debug)]
#[must_use = "logging ends when it is dropped"]
pub struct DmaLogging {
    device: BoundDevice,
    page_size: u64,
}

impl BoundDevice {
    /// Begins to log writes to these ranges, in pages of about `page_size` bytes. A device logs for one user at a time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on a device that does not log; EINVAL for ranges that overlap, or while it logs already; EOVERFLOW past the
    /// end of the address space.
    #[doc(alias = "VFIO_DEVICE_FEATURE_DMA_LOGGING_START")]
    pub fn dma_logging(&self, page_size: u64, ranges: &[IovaRange]) -> Result<DmaLogging, Error> {
        let feature = Feature::DMA_LOGGING_START;
        let range = |range: &IovaRange| Some((range.start().0, u64::try_from(range.len_bytes()).ok()?));
        let ranges: Option<Vec<_>> = ranges.iter().map(range).collect();
        let too_long = || self.failed(feature.to_string(), ErrorKind::Invalid("a range of all addresses"));
        let started = self.calls().dma_logging_start(page_size, &ranges.ok_or_else(too_long)?);
        let page_size = started.map_err(|errno| self.feature_failed(feature, errno))?;
        Ok(DmaLogging {
            device: self.clone(),
            page_size,
        })
    }
}

impl DmaLogging {
    /// The bytes of a page that the device chose.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Marks in `bitmap` the pages of its range that the device has written since they were last asked for. Its page size is a power of two of at
    /// least 4096 bytes, not necessarily the device's.
    ///
    /// # Errors
    ///
    /// After any error all memory counts as dirty, and the log is to be started anew.
    #[doc(alias = "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT")]
    pub fn report(&self, bitmap: &mut DirtyBitmap) -> Result<(), Error> {
        let (iova, len, page_size) = (bitmap.range().start().0, bitmap.len_bytes(), bitmap.page_size());
        let calls = self.device.calls();
        let reported = calls.dma_logging_report(iova, len, page_size, bitmap.words_mut());
        reported.map_err(|errno| self.device.feature_failed(Feature::DMA_LOGGING_REPORT, errno))
    }
}

impl Drop for DmaLogging {
    fn drop(&mut self) {
        if let Err(error) = self.device.set_feature(Feature::DMA_LOGGING_STOP, &mut []) {
            tracing::error!(%error, "the device logs its DMA until it is closed");
        }
    }
}
