//! The driver of the tutorial (`drivers::edu`) on a real edu: computes, copies both ways, interrupts, and checks all of it.
//!
//! `first-driver 0000:00:03.0`; the function is bound to vfio-pci.
#![expect(clippy::print_stdout, reason = "this is a program")]

mod common;

use anyhow::{Result, ensure};
use clap::Parser;
use drivers::edu::{Edu, MEMORY_LEN};

/// Drives QEMU's tutorial device from this process
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    function: common::Function,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut edu = Edu::new(arguments.function.open()?)?;
    let (major, minor) = edu.version();
    println!("edu {major}.{minor}");
    edu.check()?;

    let factorial = edu.factorial(12)?;
    println!("12! = {factorial}");
    ensure!(factorial == 479_001_600, "that is wrong");

    edu.interrupt(0x40)?;
    println!("it interrupts");

    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(MEMORY_LEN).collect();
    edu.write(0, &bytes)?;
    let mut copy = vec![0; MEMORY_LEN];
    edu.read(0, &mut copy)?;
    ensure!(copy == bytes, "what came back is not what went in");
    println!("{MEMORY_LEN} bytes went in and came back by DMA");
    Ok(())
}
