//! Arguments of the commands that change the machine.

use super::Selector;
use crate::complete;
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::num::NonZeroU16;

/// The changes.
#[derive(Debug, Subcommand)]
pub(crate) enum ChangeCommand {
    /// Create and delete virtual functions
    #[command(subcommand)]
    Vf(VfCommand),
    /// Bind functions to a driver
    ///
    /// The driver native is whichever the kernel chooses by itself.
    Bind {
        /// Functions to bind
        #[arg(value_name = "SELECTOR", required = true, add = ArgValueCompleter::new(complete::functions))]
        selectors: Vec<Selector>,
        /// The driver, such as vfio-pci
        #[arg(long, value_name = "DRIVER", add = ArgValueCompleter::new(complete::drivers))]
        driver: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Take functions from their driver and leave them without
    Unbind {
        /// Functions to unbind
        #[arg(value_name = "SELECTOR", required = true, add = ArgValueCompleter::new(complete::functions))]
        selectors: Vec<Selector>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Give functions back to their native driver
    Release {
        /// Functions to give back
        #[arg(value_name = "SELECTOR", required = true, add = ArgValueCompleter::new(complete::functions))]
        selectors: Vec<Selector>,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

/// Creating and deleting.
#[derive(Debug, Subcommand)]
pub(crate) enum VfCommand {
    /// Create virtual functions
    ///
    /// The kernel goes only from no VFs to N: when the PF has another number of them, delete those first.
    Create {
        /// The PF
        #[arg(value_name = "PF", add = ArgValueCompleter::new(complete::physical_functions))]
        pf: Selector,
        /// How many
        #[arg(value_name = "N", value_parser = parse_count)]
        count: NonZeroU16,
        /// Bind them to this driver, such as vfio-pci, instead of their native one
        #[arg(long, value_name = "DRIVER", add = ArgValueCompleter::new(complete::drivers))]
        driver: Option<String>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Delete all virtual functions of a PF
    Delete {
        /// The PF
        #[arg(value_name = "PF", add = ArgValueCompleter::new(complete::physical_functions))]
        pf: Selector,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

/// Options of every change.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChangeOptions {
    /// Print what would be done, in order, and do nothing
    #[arg(short = 'N', long)]
    pub(crate) dry_run: bool,
    /// Answer the question before a forced change with yes
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Go on although the machine itself uses the function in this way; asks first
    ///
    /// A function that a process holds through VFIO or UIO is never touched.
    #[arg(long, value_name = "USE", value_enum)]
    pub(crate) force: Vec<Force>,
    /// Wait so long for another sriovctl to finish
    ///
    /// 0 does not wait at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, hide_short_help = true)]
    pub(crate) wait: u64,
}

/// Uses that may be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Force {
    /// A mounted filesystem, swap, or a member of a RAID or device-mapper device
    Storage,
    /// An interface that carries a route or is part of a bridge or bond
    Network,
    /// The display of the console
    Console,
}

fn parse_count(text: &str) -> Result<NonZeroU16, String> {
    let count: u16 = text
        .parse()
        .map_err(|_not_a_number| "expected a number from 1 to 65535".to_owned())?;
    NonZeroU16::new(count).ok_or_else(|| "sriovctl vf delete PF deletes all VFs of a PF".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_count;

    #[test]
    fn to_create_no_vfs_is_to_delete_them() {
        assert!(parse_count("0").unwrap_err().contains("vf delete"));
        assert_eq!(parse_count("8").unwrap().get(), 8);
        for wrong in ["", "-1", "65536", "x"] {
            assert!(parse_count(wrong).unwrap_err().contains("65535"), "{wrong}");
        }
    }
}
