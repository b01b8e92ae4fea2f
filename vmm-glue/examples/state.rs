//! Saves the state of a serial port (the kernel's sample device mtty) to a file, and loads it into another one, in another process:
//!
//! `state save /dev/vfio/devices/vfio0 FILE TEXT COUNT` sends the text, which the device keeps, reads back that many bytes, and saves it.
//! `state load /dev/vfio/devices/vfio1 FILE COUNT` loads that, and reads that many bytes more.
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::fs::File;
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, CdevFile, Region, RegionIndex, System};
use vmm_glue::migration::{Limits, Loading, save};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Where bytes are sent and received, and where the buffer for them is switched on (16550).
const DATA: u64 = 0;
const FIFO_CONTROL: u64 = 2;
/// On, both buffers empty.
const FIFO_ON: u8 = 0b111;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["save", node, file, text, count] => {
            let port = open(node)?;
            let registers = port.region(RegionIndex::BAR0)?;
            registers.write_u8(FIFO_CONTROL, FIFO_ON)?;
            for byte in text.bytes() {
                registers.write_u8(DATA, byte)?;
            }
            println!("read before: {}", received(&registers, count.parse()?)?);
            let saved = save([(port, File::create(file)?)], Limits::default(), || Ok(()))?;
            println!("{} bytes of state", saved.iter().map(|saved| saved.total).sum::<u64>());
        }
        ["load", node, file, count] => {
            let port = open(node)?;
            let loading = Loading::new(&port, &mut File::open(file)?)?;
            println!("{} bytes of state", loading.total());
            loading.answer()?;
            loading.run()?;
            println!(
                "read after: {}",
                received(&port.region(RegionIndex::BAR0)?, count.parse()?)?
            );
        }
        _ => return Err("usage: state save NODE FILE TEXT COUNT | state load NODE FILE COUNT".into()),
    }
    Ok(())
}

fn open(node: &str) -> Outcome<BoundDevice> {
    let system = System::host();
    let iommufd = Iommufd::open(&system)?;
    Ok(CdevFile::open(&system, node)?.bind(&iommufd, None)?)
}

fn received(registers: &Region, count: usize) -> Outcome<String> {
    let mut bytes = vec![0; count];
    for byte in &mut bytes {
        *byte = registers.read_u8(DATA)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
