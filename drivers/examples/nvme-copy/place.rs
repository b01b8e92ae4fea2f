//! Where data comes from and goes to.

use crate::common::{Function, Interface};
use anyhow::{Context, bail, ensure};
use drivers::nvme::{Command, Controller, Namespace, Options, Part, QueueOptions, QueuePair, Registered};
use drivers::{Backing, VfioBacking};
use pci::Bdf;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use vfio_core::{Access, Memory};

/// What the command line names.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A namespace of a controller.
    Namespace(Bdf, u32),
    /// A file.
    File(PathBuf),
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let namespace = text
            .rsplit_once(':')
            .and_then(|(bdf, id)| Some((bdf.parse().ok()?, id.parse().ok()?)));
        Ok(match namespace {
            Some((bdf, id)) => Self::Namespace(bdf, id),
            None => Self::File(text.into()),
        })
    }
}

/// Controllers that are open, and the memory that all of them reach.
#[derive(Debug)]
pub(crate) struct Devices {
    interface: Option<Interface>,
    depth: u16,
    memory: Arc<Memory>,
    open: Vec<(Bdf, Controller<VfioBacking>, Registered)>,
}

/// An open one.
#[derive(Debug)]
pub(crate) enum Place {
    /// A namespace, with a queue pair.
    Namespace {
        queue: Box<QueuePair<VfioBacking, Part>>,
        namespace: Namespace,
        registered: Registered,
    },
    /// A file.
    File { file: File, memory: Arc<Memory> },
}

impl Devices {
    pub(crate) fn new(interface: Option<Interface>, depth: u16, memory: Arc<Memory>) -> Self {
        Self {
            interface,
            depth,
            memory,
            open: Vec::new(),
        }
    }

    pub(crate) fn open(&mut self, target: &Target, writes: bool) -> anyhow::Result<Place> {
        let (bdf, id) = match target {
            Target::File(path) => {
                let mut options = File::options();
                options.read(true).write(writes).create(writes);
                let file = options.open(path).with_context(|| path.display().to_string())?;
                let memory = Arc::clone(&self.memory);
                return Ok(Place::File { file, memory });
            }
            Target::Namespace(bdf, id) => (*bdf, *id),
        };
        if !self.open.iter().any(|(open, ..)| *open == bdf) {
            let device = Function {
                bdf,
                interface: self.interface,
                vf_token: None,
            };
            let backing = device.open()?;
            let memory: Arc<Memory> = Arc::clone(&self.memory);
            let registered = Registered::new(backing.space(), memory, Access::READ | Access::WRITE)?;
            let options = Options {
                vectors: 0,
                ..Options::default()
            };
            self.open.push((bdf, Controller::new(backing, &options)?, registered));
        }
        let open = self.open.iter().find(|(open, ..)| *open == bdf);
        let (_, controller, registered) = open.context("just opened")?;
        let namespace = controller.namespace(id)?;
        ensure!(namespace.metadata_bytes == 0, "blocks with metadata are not copied");
        let queue = controller.queue_pair(QueueOptions {
            depth: self.depth,
            ..QueueOptions::default()
        })?;
        Ok(Place::Namespace {
            queue: Box::new(queue),
            namespace,
            registered: registered.clone(),
        })
    }
}

impl Place {
    /// Bytes that it has.
    pub(crate) fn capacity(&self) -> anyhow::Result<u64> {
        Ok(match self {
            Self::Namespace { namespace, .. } => namespace.capacity(),
            Self::File { file, .. } => file.metadata()?.len(),
        })
    }

    /// Bytes of which lengths are multiples.
    pub(crate) fn unit(&self) -> u64 {
        match self {
            Self::Namespace { namespace, .. } => namespace.lba_bytes.into(),
            Self::File { .. } => 1,
        }
    }

    /// Says whether so much can be written.
    pub(crate) fn make_room(&self, bytes: u64) -> anyhow::Result<()> {
        match self {
            Self::Namespace { namespace, .. } => {
                ensure!(
                    bytes <= namespace.capacity(),
                    "TO has only {} bytes",
                    namespace.capacity()
                );
            }
            Self::File { file, .. } => file.set_len(bytes)?,
        }
        Ok(())
    }

    /// Reads `bytes` from `offset` on into the start of the memory.
    pub(crate) fn read(&mut self, offset: u64, bytes: u64, chunk: u64) -> anyhow::Result<()> {
        self.transfer(offset, bytes, chunk, true)
    }

    /// Writes the start of the memory there.
    pub(crate) fn write(&mut self, offset: u64, bytes: u64, chunk: u64) -> anyhow::Result<()> {
        self.transfer(offset, bytes, chunk, false)
    }

    fn transfer(&mut self, offset: u64, bytes: u64, chunk: u64, reads: bool) -> anyhow::Result<()> {
        match self {
            Self::File { file, memory } => {
                let mut buffer = vec![0; usize::try_from(bytes)?];
                if reads {
                    file.read_exact_at(&mut buffer, offset)?;
                    memory.write(0, &buffer).context("outside the memory")?;
                } else {
                    memory.read(0, &mut buffer).context("outside the memory")?;
                    file.write_all_at(&buffer, offset)?;
                }
                Ok(())
            }
            Self::Namespace {
                queue,
                namespace,
                registered,
            } => {
                let chunk = chunk.min(queue.transfer_bytes());
                let (mut at, unit) = (0, u64::from(namespace.lba_bytes));
                while at < bytes || queue.outstanding() != 0 {
                    while at < bytes && !queue.is_full() {
                        let len = chunk.min(bytes - at);
                        let (lba, blocks) = ((offset + at) / unit, u32::try_from(len / unit)?);
                        let command = if reads {
                            Command::read(namespace, lba, blocks)
                        } else {
                            Command::write(namespace, lba, blocks)
                        };
                        let part = registered.part(usize::try_from(at)?..usize::try_from(at + len)?);
                        queue.submit(&command, Some(part.context("outside the memory")?))?;
                        at += len;
                    }
                    finish(queue)?;
                }
                Ok(())
            }
        }
    }

    /// Makes durable what was written.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::File { file, .. } => Ok(file.sync_all()?),
            Self::Namespace { queue, namespace, .. } => {
                queue.flush(namespace)?;
                finish(queue)
            }
        }
    }
}

fn finish(queue: &mut QueuePair<VfioBacking, Part>) -> anyhow::Result<()> {
    let completion = queue.wait(None)?.context("no completion")?;
    if !completion.status.is_success() {
        bail!("a command failed: {}", completion.status);
    }
    Ok(())
}
