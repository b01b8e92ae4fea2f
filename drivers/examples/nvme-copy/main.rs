//! Copies between namespaces and files, and reads the copy back: `nvme-copy FROM TO`, where either is a file, or BDF:NSID of a controller whose
//! function is bound to vfio-pci. Both may be of one controller.
//!
//! ```text
//! nvme-copy disk.img 0000:01:00.0:1 --destroy-data
//! nvme-copy 0000:01:00.0:1 0000:01:00.0:2 --bytes 1073741824 --destroy-data
//! ```
//!
//! Data goes from the one controller's DMA to the other's without a copy in between, in memory that both reach. What was written is read again, and
//! SHA-256 of what was read from the one and from the other are compared.

#![expect(clippy::print_stdout, reason = "this is a program")]

#[path = "../common/mod.rs"]
mod common;
mod place;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use common::Interface;
use place::{Place, Target};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use vfio_core::{Memory, MemoryOptions};

/// Copies between NVMe namespaces and files
#[derive(Debug, Parser)]
struct Arguments {
    /// File, or BDF:NSID
    from: Target,
    /// File, or BDF:NSID
    to: Target,
    /// Bytes to copy [default: all of FROM]
    #[arg(long)]
    bytes: Option<u64>,
    /// Bytes of a command at most
    #[arg(long, default_value_t = 256 << 10)]
    chunk: u32,
    /// Commands that are outstanding
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    depth: u16,
    /// Interface of the kernel [default: iommufd, where there is one]
    #[arg(long)]
    interface: Option<Interface>,
    /// Write to a namespace: what it holds is lost
    #[arg(long)]
    destroy_data: bool,
    /// Do not read the copy back
    #[arg(long)]
    no_verify: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if matches!(arguments.to, Target::Namespace(..)) && !arguments.destroy_data {
        bail!("writing destroys what the namespace holds; say --destroy-data");
    }
    let chunk = u64::from(arguments.chunk);
    ensure!(chunk.is_multiple_of(4096) && chunk != 0, "a chunk is a number of pages");
    let len = usize::try_from(chunk * u64::from(arguments.depth))?;
    let memory = Arc::new(Memory::new(len, MemoryOptions::default())?);
    memory.populate(0..len)?;

    let mut devices = place::Devices::new(arguments.interface, arguments.depth, Arc::clone(&memory));
    let mut from = devices.open(&arguments.from, false).context("FROM")?;
    let mut to = devices.open(&arguments.to, true).context("TO")?;
    let bytes = arguments.bytes.unwrap_or(from.capacity()?);
    ensure!(bytes <= from.capacity()?, "FROM has only {} bytes", from.capacity()?);
    let unit = from.unit().max(to.unit());
    ensure!(
        bytes.is_multiple_of(unit),
        "{bytes} bytes are not a number of blocks of {unit}"
    );
    to.make_room(bytes)?;

    let copied = stream(&memory, bytes, chunk, &mut from, Some(&mut to))?;
    to.flush()?;
    println!("{bytes} bytes copied, SHA-256 {}", hex(&copied));
    if !arguments.no_verify {
        let found = stream(&memory, bytes, chunk, &mut to, None)?;
        ensure!(found == copied, "the copy is different: SHA-256 {}", hex(&found));
        println!("the copy is the same");
    }
    Ok(())
}

/// Reads all of `from`, writes it to `to`, and says what it was. As much as the memory holds is read at a time, then written.
fn stream(
    memory: &Memory,
    bytes: u64,
    chunk: u64,
    from: &mut Place,
    mut to: Option<&mut Place>,
) -> anyhow::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; usize::try_from(chunk)?];
    let mut done = 0;
    while done < bytes {
        let window = (bytes - done).min(memory.len() as u64);
        from.read(done, window, chunk)?;
        let mut at = 0;
        while at < usize::try_from(window)? {
            let len = buffer.len().min(usize::try_from(window)? - at);
            let part = buffer.get_mut(..len).context("a part of a chunk")?;
            memory.read(at, part).context("outside the memory")?;
            hash.update(part);
            at += len;
        }
        if let Some(to) = &mut to {
            to.write(done, window, chunk)?;
        }
        done += window;
    }
    Ok(hash.finalize().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
