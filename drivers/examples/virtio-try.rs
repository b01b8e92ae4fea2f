//! Tries a virtio function: finds out what it is, uses it, and checks what comes back.
//!
//! `virtio-try 0000:01:00.0`; the function is bound to vfio-pci. A disk is overwritten, unless `--keep` is given. Of a network card `--peer` may
//! be another one on the same network: each sends to the other then.
#![expect(clippy::print_stdout, reason = "this is a program")]

mod common;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use drivers::virtio::spec::net::Header;
use drivers::virtio::{
    Block, BlockOptions, BlockQueue, Console, ConsoleOptions, Entropy, Frame, Kind, Net, NetOptions, NetRx, NetTx,
    Request,
};
use drivers::{Backing, VfioBacking};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use pci::Bdf;
use std::time::{Duration, Instant};

/// Uses a virtio function from this process, and checks what it does
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    function: common::Function,
    /// Poll instead of waiting for interrupts
    #[arg(long)]
    poll: bool,
    /// Only read the disk
    #[arg(long)]
    keep: bool,
    /// MiB of the disk to go over
    #[arg(long, default_value_t = 16)]
    mib: u64,
    /// Another network card of the same network
    #[arg(long)]
    peer: Option<Bdf>,
}

const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a request to a disk, and how many of them are under way.
const PIECE: usize = 64 << 10;
const DEPTH: u64 = 16;
const SECTOR: u64 = 512;
/// Frames that cards send each other.
const FRAMES: u32 = 100;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let backing = arguments.function.open()?;
    let kind = Kind::of(&backing.config()?).context("this is no virtio device")?;
    println!("{}: {kind}", arguments.function.bdf);
    match kind {
        Kind::Block => disk(&backing, &arguments)?,
        Kind::Network => network(&backing, &arguments)?,
        Kind::Console => console(backing, &arguments)?,
        Kind::Entropy => entropy(backing, &arguments)?,
        Kind::Other(_) => bail!("there is no driver for it"),
    }
    println!("{kind}: all right");
    Ok(())
}

type Queue = BlockQueue<VfioBacking, DmaBuffer<Both>>;

fn disk(backing: &VfioBacking, arguments: &Arguments) -> Result<()> {
    let options = BlockOptions {
        interrupts: !arguments.poll,
        ..BlockOptions::default()
    };
    let (disk, mut queues) = Block::open(backing.clone(), options)?;
    println!("{:?}", disk.limits());
    let queue = queues.first_mut().context("a disk without queues")?;

    let name = finish(queue, Request::Identify, Some(buffer(backing, 20)?))?;
    let mut bytes = [0; 20];
    name.context("no name")?.read(0, &mut bytes).context("a short name")?;
    println!(
        "it is called {}",
        String::from_utf8_lossy(&bytes).trim_end_matches('\0')
    );

    let pieces = (arguments.mib << 20).min(disk.capacity() * SECTOR) / PIECE as u64;
    if !arguments.keep {
        let began = Instant::now();
        over(queue, backing, pieces, true)?;
        if disk.limits().has_cache {
            finish(queue, Request::Flush, None)?;
        }
        println!("{pieces} × {PIECE} bytes written in {:?}", began.elapsed());
    }
    let began = Instant::now();
    let different = over(queue, backing, pieces, false)?;
    println!("and read in {:?}", began.elapsed());
    if arguments.keep {
        return Ok(());
    }
    ensure!(different == 0, "{different} pieces are not what was written");
    if disk.limits().write_zeroes > 0 {
        let request = Request::WriteZeroes {
            sector: 1,
            sectors: 2,
            unmap: false,
        };
        finish(queue, request, None)?;
        let read = finish(queue, Request::Read { sector: 1 }, Some(buffer(backing, 1024)?))?;
        let mut bytes = [1; 1024];
        read.context("no data")?.read(0, &mut bytes).context("a short buffer")?;
        ensure!(bytes == [0; 1024], "what was zeroed is not zero");
        println!("it writes zeroes");
    }
    if disk.limits().discard > 0 {
        finish(queue, Request::Discard { sector: 8, sectors: 8 }, None)?;
        println!("it discards");
    }
    Ok(())
}

/// Goes over the disk, many requests at a time; counts the pieces that are not as they should be.
fn over(queue: &mut Queue, backing: &VfioBacking, pieces: u64, writes: bool) -> Result<u64> {
    let mut idle = (0..DEPTH).map(|_| buffer(backing, PIECE)).collect::<Result<Vec<_>>>()?;
    let (mut next, mut done, mut different) = (0, 0, 0);
    let mut bytes = vec![0; PIECE];
    while done < pieces {
        while next < pieces
            && let Some(mut data) = idle.pop()
        {
            let sector = next * (PIECE as u64 / SECTOR);
            let request = if writes {
                data.write(0, &pattern(sector)).context("a short buffer")?;
                Request::Write { sector }
            } else {
                Request::Read { sector }
            };
            queue.submit(request, Some(data)).map_err(|refused| refused.error)?;
            next += 1;
        }
        queue.kick();
        let completed = queue.pop_within(LIMIT)?.context("the disk does not answer")?;
        completed.result?;
        let data = completed.data.context("a request without its data")?;
        if let Request::Read { sector } = completed.request {
            data.read(0, &mut bytes).context("a short buffer")?;
            different += u64::from(bytes != pattern(sector));
        }
        idle.push(data);
        done += 1;
    }
    Ok(different)
}

/// What belongs at a sector: different everywhere.
fn pattern(sector: u64) -> Vec<u8> {
    let words = (0..PIECE as u64 / 8).map(|word| (sector << 20 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn finish(queue: &mut Queue, request: Request, data: Option<DmaBuffer<Both>>) -> Result<Option<DmaBuffer<Both>>> {
    queue.submit(request, data).map_err(|refused| refused.error)?;
    queue.kick();
    let completed = queue.pop_within(LIMIT)?.context("the disk does not answer")?;
    completed.result?;
    Ok(completed.data)
}

/// A network card with its queues.
struct Card {
    net: Net<VfioBacking>,
    rx: NetRx<VfioBacking>,
    tx: NetTx<VfioBacking>,
    /// What the next frame goes out in, unless the card has it: memory is mapped once, which takes longer than a frame.
    idle: Option<DmaBuffer<Both>>,
    mac: [u8; 6],
    poll: bool,
}

fn network(backing: &VfioBacking, arguments: &Arguments) -> Result<()> {
    let mut card = card(backing, arguments.poll)?;
    let Some(peer) = arguments.peer else {
        let count = 100;
        for number in 0..count {
            card.send([0xff; 6], number)?;
            card.reap()?;
        }
        let mut received = 0;
        while card.rx.pop()?.is_some() {
            received += 1;
        }
        println!("{count} frames sent, {received} received");
        return card.net.check().map_err(Into::into);
    };
    let peer = common::Function {
        bdf: peer,
        ..arguments.function.clone()
    }
    .open()?;
    let mut peer = self::card(&peer, arguments.poll)?;
    for number in 0..FRAMES {
        exchange(&mut card, &mut peer, number)?;
        exchange(&mut peer, &mut card, number)?;
    }
    println!("{FRAMES} frames each way");
    Ok(())
}

fn card(backing: &VfioBacking, poll: bool) -> Result<Card> {
    let options = NetOptions {
        depth: 32,
        mergeable: true,
        interrupts: !poll,
        ..NetOptions::default()
    };
    let (net, mut rx, tx) = Net::open(backing.clone(), options)?;
    let mac = net.mac()?.context("a card without an address")?;
    println!("{mac:02x?}, link {}", if net.is_link_up()? { "up" } else { "down" });
    while rx.room() > 0 {
        rx.post(buffer(backing, 2048)?).map_err(|refused| refused.error)?;
    }
    rx.kick();
    let idle = Some(buffer(backing, FRAME)?);
    Ok(Card {
        net,
        rx,
        tx,
        idle,
        mac,
        poll,
    })
}

fn exchange(from: &mut Card, to: &mut Card, number: u32) -> Result<()> {
    from.send(to.mac, number)?;
    let end = Instant::now() + LIMIT;
    while to.receive()? != Some(number) {
        ensure!(Instant::now() < end, "frame {number} does not arrive");
        if !to.poll {
            to.rx.wait(Some(LIMIT))?;
        }
    }
    from.reap()
}

/// What a frame is: addresses, an experimental type (IEEE 802), a number, and something to make it long enough.
const NUMBER: usize = 14;
const FRAME: usize = 64;

impl Card {
    fn send(&mut self, to: [u8; 6], number: u32) -> Result<()> {
        let mut bytes = [to, self.mac].concat();
        bytes.extend([0x88, 0xb5]);
        bytes.extend(number.to_le_bytes());
        bytes.resize(FRAME, 0);
        let mut buffer = self.idle.take().context("the last frame was not sent")?;
        buffer.write(0, &bytes).context("a short buffer")?;
        let frame = Frame {
            buffer,
            start: 0,
            len: FRAME,
            header: Header::default(),
        };
        self.tx.push(frame).map_err(|refused| refused.error)?;
        self.tx.kick();
        Ok(())
    }

    /// The number of the next frame of ours.
    fn receive(&mut self) -> Result<Option<u32>> {
        let Some(part) = self.rx.pop()? else { return Ok(None) };
        let mut bytes = [0; NUMBER + 4];
        part.buffer.read(part.start, &mut bytes).context("a short buffer")?;
        self.rx.post(part.buffer).map_err(|refused| refused.error)?;
        self.rx.kick();
        let [.., 0x88, 0xb5, a, b, c, d] = bytes else {
            return Ok(None);
        };
        Ok(Some(u32::from_le_bytes([a, b, c, d])))
    }

    /// Waits until the frame was sent.
    fn reap(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while self.idle.is_none() {
            ensure!(Instant::now() < end, "a frame is not sent");
            self.idle = self.tx.reap()?;
        }
        Ok(())
    }
}

fn console(backing: VfioBacking, arguments: &Arguments) -> Result<()> {
    let options = ConsoleOptions {
        interrupts: !arguments.poll,
        ..ConsoleOptions::default()
    };
    let mut console = Console::open(backing, options)?;
    println!("columns and rows: {:?}", console.size()?);
    let said: Vec<u8> = (0_u32..3000).flat_map(u32::to_le_bytes).collect();
    console.write(&said, LIMIT)?;
    console.flush(LIMIT)?;
    let mut heard = vec![0; said.len()];
    let (mut len, end) = (0, Instant::now() + LIMIT);
    while len < said.len() {
        let rest = heard.get_mut(len..).unwrap_or_default();
        len += console.read(rest)?;
        ensure!(Instant::now() < end, "{len} of {} bytes came back", said.len());
    }
    ensure!(heard == said, "it says something else than it heard");
    println!("{len} bytes went out and came back");
    Ok(())
}

fn entropy(backing: VfioBacking, arguments: &Arguments) -> Result<()> {
    let mut source = Entropy::open(backing, !arguments.poll)?;
    let mut bytes = vec![0; 10_000];
    source.fill(&mut bytes, LIMIT)?;
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    println!("{} bytes, of whose bits {ones} are 1", bytes.len());
    // Of 80 000 fair bits this is ten standard deviations.
    ensure!((38_600..=41_400).contains(&ones), "that is not random");
    Ok(())
}

fn buffer(backing: &VfioBacking, len: usize) -> Result<DmaBuffer<Both>> {
    Ok(DmaBuffer::new(backing.space(), len, &BufferOptions::default())?)
}
