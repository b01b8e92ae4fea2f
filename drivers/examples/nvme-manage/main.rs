//! Manages an NVMe controller: namespaces, formats, virtual functions; or tests what it can manage.
//!
//! `nvme-manage 0000:02:00.0 create 4096`, `nvme-manage 0000:02:00.0 format 1 --lba-format 4 --destroy-data-on SERIAL`. The function is bound to
//! vfio-pci.
//!
//! A virtual function works as long as somebody drives its physical function. `nvme-manage PF virtual-function 1 --token UUID` drives it, takes the
//! virtual function's controller online once a line comes on its input, and goes on until the input ends:
//! meanwhile whoever has the token can use the virtual function.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../common/mod.rs"]
mod common;
mod self_test;

use anyhow::Context;
use clap::{Parser, Subcommand};
use drivers::VfioBacking;
use drivers::nvme::{Create, DestroyData, Format, Options, Resources, Sanitize};
use std::io::{BufRead, Read};

type Controller = drivers::nvme::Controller<VfioBacking>;

/// Manages an NVMe controller: namespaces, formats, virtual functions
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    device: common::Function,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a namespace; prints its number
    Create {
        /// Logical blocks
        blocks: u64,
        /// Number of the LBA format
        #[arg(long, default_value_t = 0)]
        lba_format: u8,
    },
    /// Attach a namespace to a controller
    Attach {
        /// The namespace
        namespace: u32,
        /// The controller [default: this one]
        controller: Option<u16>,
    },
    /// Detach a namespace from a controller
    Detach {
        /// The namespace
        namespace: u32,
        /// The controller [default: this one]
        controller: Option<u16>,
    },
    /// Delete a namespace and its data
    Delete {
        /// The namespace
        namespace: u32,
        /// Serial number of the controller, to show that this is meant
        #[arg(long)]
        destroy_data_on: String,
    },
    /// Format a namespace
    Format {
        /// The namespace
        namespace: u32,
        /// Number of the LBA format
        #[arg(long, default_value_t = 0)]
        lba_format: u8,
        /// Serial number of the controller, to show that this is meant
        #[arg(long)]
        destroy_data_on: String,
    },
    /// Erase all blocks of the subsystem
    Sanitize {
        /// Serial number of the controller, to show that this is meant
        #[arg(long)]
        destroy_data_on: String,
    },
    /// Take the controller of a virtual function online, and stay until the input ends
    VirtualFunction {
        /// The virtual function, counted from 1
        number: u16,
        /// Queue pairs, with the admin queue's
        #[arg(long, default_value_t = 2)]
        queues: u16,
        /// Interrupt vectors
        #[arg(long, default_value_t = 1)]
        interrupts: u16,
    },
    /// Try everything that leaves namespaces as they are; fails if something is not as it should be
    SelfTest,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Command::VirtualFunction {
        number,
        queues,
        interrupts,
    } = arguments.command
    {
        return virtual_function(&arguments.device, number, Resources { queues, interrupts });
    }
    let controller = Controller::new(arguments.device.open()?, &Options::default())?;
    let own = controller.identity().cntlid.get();
    match arguments.command {
        Command::Create { blocks, lba_format } => {
            let create = Create {
                blocks,
                capacity: blocks,
                lba_format,
                is_extended: false,
                is_shared: true,
            };
            println!("{}", controller.create_namespace(create)?);
        }
        Command::Attach {
            namespace,
            controller: id,
        } => controller.attach_namespace(namespace, &[id.unwrap_or(own)])?,
        Command::Detach {
            namespace,
            controller: id,
        } => controller.detach_namespace(namespace, &[id.unwrap_or(own)])?,
        Command::Delete {
            namespace,
            destroy_data_on,
        } => {
            controller.delete_namespace(&DestroyData::on(&destroy_data_on), Some(namespace))?;
        }
        Command::Format {
            namespace,
            lba_format,
            destroy_data_on,
        } => {
            let format = Format {
                lba_format,
                ..Format::default()
            };
            controller.format(&DestroyData::on(&destroy_data_on), Some(namespace), format)?;
        }
        Command::Sanitize { destroy_data_on } => {
            controller.sanitize(&DestroyData::on(&destroy_data_on), Sanitize::BlockErase)?;
        }
        Command::VirtualFunction { .. } => {}
        Command::SelfTest => self_test::run(&controller)?,
    }
    controller.shut_down()?;
    Ok(())
}

fn virtual_function(device: &common::Function, number: u16, resources: Resources) -> anyhow::Result<()> {
    let token = device
        .vf_token
        .context("--vf-token: what users of the virtual function will name")?;
    // The physical function's own driver sets it, and needs none.
    let backing = common::Function {
        vf_token: None,
        ..device.clone()
    };
    let backing = backing.open()?;
    backing.device().set_vf_token(token)?;
    let controller = Controller::new(backing, &Options::default())?;
    println!("the physical function is driven: make its virtual functions (sriov_numvfs)");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let entry = controller.bring_up_virtual_function(number, resources)?;
    println!(
        "virtual function {number}: controller {} is online with {} queues and {} interrupts",
        entry.scid, entry.nvq, entry.nvi
    );
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    controller.shut_down()?;
    Ok(())
}
