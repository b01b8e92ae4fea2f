//! Walking the capabilities of a configuration space.

use super::{OURS, Operation, Subject, metered};
use crate::record::Clock;
use anyhow::{Context, Result};
use pci::ConfigSpace;
use std::hint::black_box;

/// An SR-IOV NIC, as lspci shows it.
const NIC: &str = include_str!("../../../tests/fixtures/config/igb-pf.txt");

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("config", "walk both lists", OURS, 16, walk).allocates(true),
        Operation::new("config", "describe all registers", OURS, 1, describe).by(&[Clock::Wall]),
    ]
}

/// The configuration space of the NIC.
pub(super) fn space() -> Result<ConfigSpace> {
    let functions = pci::dump::parse(NIC)?;
    Ok(functions.into_iter().next().context("no function in the dump")?.config)
}

fn walk() -> Result<Subject> {
    let space = space()?;
    Ok(Subject::new(move || {
        metered(|| {
            for _ in 0..16 {
                let space = black_box(&space);
                black_box((space.capabilities(), space.extended_capabilities()));
            }
        });
        Ok(())
    }))
}

fn describe() -> Result<Subject> {
    let space = space()?;
    Ok(Subject::new(move || {
        metered(|| black_box(black_box(&space).lines(108)));
        Ok(())
    }))
}
