//! The kernel's log as records, from `/dev/kmsg` (`Documentation/ABI/testing/dev-kmsg`).

use lab_init::KernelRecord;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// An open log; every record is read once.
#[derive(Debug)]
pub(crate) struct KernelLog(Option<OwnedFd>);

impl KernelLog {
    /// Opens the log at its beginning. A machine without one has no records.
    pub(crate) fn open() -> Self {
        Self(
            open(
                "/dev/kmsg",
                OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .ok(),
        )
    }

    /// All records since the last call.
    pub(crate) fn drain(&mut self) -> Vec<KernelRecord> {
        let mut records = Vec::new();
        let Some(log) = &self.0 else { return records };
        let mut buffer = [0; 8192];
        loop {
            match rustix::io::read(log, &mut buffer) {
                Ok(len) if len > 0 => records.extend(buffer.get(..len).and_then(parse)),
                // EPIPE: records were overwritten before we came; the next read goes on behind the gap.
                Err(Errno::PIPE) => {}
                _ => return records,
            }
        }
    }
}

/// `<priority>,<sequence>,<time>,<flags>;text\n key=value\n…`
fn parse(record: &[u8]) -> Option<KernelRecord> {
    let text = String::from_utf8_lossy(record);
    let (prefix, text) = text.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default().to_owned();
    Some(KernelRecord {
        level: u8::try_from(priority & 7).ok()?,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_loses_its_prefix_and_its_dictionary() {
        let record = parse(b"4,1234,5678901,-;WARNING: something\n SUBSYSTEM=pci\n").unwrap();
        assert_eq!(
            record,
            KernelRecord {
                level: 4,
                text: "WARNING: something".into()
            }
        );
        assert_eq!(parse(b"30,1,1,-;from user space\n").unwrap().level, 6);
        assert_eq!(parse(b"garbage"), None);
    }
}
