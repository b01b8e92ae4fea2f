//! How a thread waits for an event: as ours does it, and by bare system calls.

use anyhow::{Result, ensure};
use rustix::event::epoll;
use rustix::io::{Errno, read};
use std::mem::MaybeUninit;
use vfio_core::{EventFd, EventSet};

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Blocking,
    Epoll,
    /// Of an event of which a read blocks: others have it, too, or it came from them.
    EpollBlocking,
    Busy,
}

/// Waits, and takes the signal.
type Wait<'a> = Box<dyn FnMut() -> Result<()> + Send + 'a>;

/// Somebody who waits.
pub(super) struct Way<'a> {
    pub(super) name: &'static str,
    pub(super) event: &'a EventFd,
    pub(super) wait: Wait<'a>,
}

impl How {
    pub(super) const ALL: [Self; 4] = [Self::Blocking, Self::Epoll, Self::EpollBlocking, Self::Busy];

    /// Whether a read of the event blocks.
    pub(super) const fn blocks(self) -> bool {
        matches!(self, Self::Blocking | Self::EpollBlocking)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking read",
            Self::Epoll => "epoll and read",
            Self::EpollBlocking => "epoll and read of a blocking event",
            Self::Busy => "reading until it is there",
        }
    }
}

/// Ours and bare calls, for an event as the way [wants](How::blocks) it.
pub(super) fn ways(how: How, event: &EventFd) -> Result<Vec<Way<'_>>> {
    let (ours, raw): (Wait<'_>, Wait<'_>) = match how {
        How::Blocking => (
            Box::new(move || {
                event.wait()?;
                Ok(())
            }),
            Box::new(move || take(event)),
        ),
        How::Epoll | How::EpollBlocking => {
            let set = EventSet::new()?;
            set.add(event, 1)?;
            let bare = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&bare, event, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
            (
                Box::new(move || {
                    set.wait(None, |_| ())?;
                    let taken = event.try_read()?;
                    ensure!(taken.is_some(), "the event was not there");
                    Ok(())
                }),
                Box::new(move || {
                    let mut found = [MaybeUninit::uninit(); 1];
                    epoll::wait(&bare, &mut found, None)?;
                    take(event)
                }),
            )
        }
        How::Busy => (
            Box::new(move || {
                while event.try_read()?.is_none() {}
                Ok(())
            }),
            Box::new(move || {
                let mut count = [0; 8];
                loop {
                    match read(event, &mut count) {
                        Err(Errno::AGAIN) => {}
                        other => return Ok(other.map(drop)?),
                    }
                }
            }),
        ),
    };
    Ok([("ours", ours), ("raw", raw)]
        .map(|(name, wait)| Way { name, event, wait })
        .into())
}

#[inline]
fn take(event: &EventFd) -> Result<()> {
    let mut count = [0; 8];
    read(event, &mut count)?;
    Ok(())
}
