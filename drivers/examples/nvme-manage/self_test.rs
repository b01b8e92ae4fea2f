//! Tries what a controller says that it can do. What it makes it deletes; other namespaces stay as they are.

use super::Controller;
use anyhow::{Context, ensure};
use drivers::ErrorKind;
use drivers::nvme::spec::identify::AdminCommands;
use drivers::nvme::{Coalescing, Create, DestroyData, Event, Format};
use std::time::Duration;

/// Long, for machines that are emulated.
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn run(controller: &Controller) -> anyhow::Result<()> {
    lists(controller).context("lists")?;
    features(controller).context("features")?;
    ensure!(!controller.abort(0, 0x7ff)?, "an abort of no command ends none");
    let bad = controller.identify_namespace(0xffff_fff0);
    let is_refused = matches!(&bad, Err(error) if matches!(error.kind, ErrorKind::Refused(_)));
    ensure!(is_refused, "a namespace that cannot be is refused: {bad:?}");
    if controller
        .identity()
        .admin_commands()
        .contains(AdminCommands::NAMESPACES)
    {
        namespaces(controller).context("namespace management")?;
    }
    for round in 0..3 {
        controller.reset().with_context(|| format!("reset {round}"))?;
        lists(controller).with_context(|| format!("lists after reset {round}"))?;
    }
    println!("self-test: passed");
    Ok(())
}

fn lists(controller: &Controller) -> anyhow::Result<()> {
    let again = controller.identify()?;
    ensure!(
        again.serial() == controller.identity().serial(),
        "the serial number changes"
    );
    for id in controller.namespaces()? {
        let namespace = controller.namespace(id)?;
        ensure!(namespace.capacity() > 0, "namespace {id} has no blocks");
    }
    let health = controller.health()?;
    ensure!(health.temperature.get() > 0, "no temperature");
    controller.error_log()?;
    controller.firmware_slots()?;
    controller.changed_namespaces()?;
    if let Ok(controllers) = controller.controllers() {
        let own = controller.identity().cntlid.get();
        ensure!(controllers.contains(&own), "{own} is not in {controllers:?}");
    }
    Ok(())
}

fn features(controller: &Controller) -> anyhow::Result<()> {
    let before = controller.interrupt_coalescing()?;
    let changed = Coalescing::new().with_threshold(3).with_time(1);
    match controller.set_interrupt_coalescing(changed) {
        Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
            println!("interrupt coalescing: not tried: {error}");
        }
        done => {
            done?;
            let is_set = controller.interrupt_coalescing()? == changed;
            ensure!(is_set, "coalescing is not what it was set to");
            controller.set_interrupt_coalescing(before)?;
        }
    }
    if controller.identity().has_write_cache() {
        let before = controller.write_cache()?;
        controller.set_write_cache(!before)?;
        ensure!(
            controller.write_cache()? != before,
            "the write cache is not what it was set to"
        );
        controller.set_write_cache(before)?;
    }
    controller.arbitration()?;
    controller.event_configuration()?;
    Ok(())
}

/// Detaches a namespace and attaches it again.
fn reattach(controller: &Controller) -> anyhow::Result<()> {
    let own = controller.identity().cntlid.get();
    let Some(id) = controller.namespaces()?.first().copied() else {
        return Ok(());
    };
    controller.detach_namespace(id, &[own])?;
    ensure!(!controller.namespaces()?.contains(&id), "{id} is still attached");
    controller.attach_namespace(id, &[own])?;
    ensure!(controller.namespaces()?.contains(&id), "{id} is not attached again");
    await_change(controller, id)
}

fn await_change(controller: &Controller, id: u32) -> anyhow::Result<()> {
    match controller.next_event(SOON)? {
        Some(Event::NamespacesChanged(list)) => {
            ensure!(
                list.is_none_or(|list| list.contains(&id)),
                "an event of another namespace"
            );
        }
        other => println!("namespace management: no event: {other:?}"),
    }
    Ok(())
}

/// Makes a namespace, if there is room for one.
fn namespaces(controller: &Controller) -> anyhow::Result<()> {
    let own = controller.identity().cntlid.get();
    let create = Create {
        blocks: 2048,
        capacity: 2048,
        lba_format: 0,
        is_extended: false,
        is_shared: true,
    };
    let id = match controller.create_namespace(create) {
        Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
            println!("namespace management: no new namespace: {error}");
            return reattach(controller).context("one that was there");
        }
        made => made?,
    };
    ensure!(
        controller.allocated_namespaces()?.contains(&id),
        "{id} is not allocated"
    );
    ensure!(!controller.namespaces()?.contains(&id), "{id} is attached already");
    controller.attach_namespace(id, &[own])?;
    ensure!(controller.namespaces()?.contains(&id), "{id} is not attached");
    match controller.next_event(SOON)? {
        Some(Event::NamespacesChanged(list)) => {
            ensure!(list.is_none_or(|list| list.contains(&id)), "of another namespace");
        }
        other => println!("namespace management: no event: {other:?}"),
    }
    ensure!(controller.namespace(id)?.blocks == 2048, "another size");
    let destroy = DestroyData::on(&controller.identity().serial());
    if controller.identity().admin_commands().contains(AdminCommands::FORMAT) {
        controller.format(&destroy, Some(id), Format::default())?;
    }
    controller.detach_namespace(id, &[own])?;
    controller.delete_namespace(&destroy, Some(id))?;
    ensure!(!controller.allocated_namespaces()?.contains(&id), "{id} is still there");
    Ok(())
}
