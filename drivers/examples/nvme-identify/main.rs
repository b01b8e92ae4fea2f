//! Says what an NVMe controller is, what namespaces it has, and what its logs say.
//!
//! `nvme-identify 0000:02:00.0 --json`. The function is bound to vfio-pci.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../common/mod.rs"]
mod common;

use clap::Parser;
use drivers::nvme::spec::namespace::Identifier;
use drivers::nvme::{Controller, Options};
use drivers::{Backing, ErrorKind, Result};
use serde_json::{Value, json};

/// Says what an NVMe controller is, what namespaces it has, and what its logs say
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    device: common::Function,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let controller = Controller::new(arguments.device.open()?, &Options::default())?;
    let report = json!({
        "function": arguments.device.bdf.to_string(),
        "controller": identity(&controller),
        "namespaces": namespaces(&controller)?,
        "health": health(&controller)?,
        "errors": errors(&controller)?,
        "firmware": firmware(&controller)?,
        "secondary_controllers": secondary(&controller)?,
    });
    controller.shut_down()?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, 0);
    }
    Ok(())
}

fn identity<B: Backing>(controller: &Controller<B>) -> Value {
    let identity = controller.identity();
    json!({
        "model": identity.model(),
        "serial": identity.serial(),
        "firmware": identity.firmware(),
        "subsystem": identity.subsystem(),
        "version": controller.version().to_string(),
        "id": identity.cntlid.get(),
        "vendor": format!("{:04x}", identity.vid),
        "queue_pairs": controller.queues(),
        "vectors": controller.vectors(),
        "queue_entries": controller.max_entries(),
        "transfer_bytes": Some(controller.max_transfer()).filter(|bytes| *bytes != u64::MAX),
        "admin_commands": names(identity.admin_commands().iter_names().map(|(name, _)| name)),
        "commands": names(identity.nvm_commands().iter_names().map(|(name, _)| name)),
        "can_fuse": identity.can_fuse(),
        "sgl": identity.sgl().map(|alignment| format!("{alignment:?}").to_lowercase()),
        "write_cache": identity.has_write_cache(),
    })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    names.map(|name| name.to_lowercase().replace('_', " ")).collect()
}

fn namespaces<B: Backing>(controller: &Controller<B>) -> Result<Value> {
    let all = controller.namespaces()?.into_iter().map(|id| {
        let namespace = controller.namespace(id)?;
        let identity = controller.identify_namespace(id)?;
        let formats = identity.formats().map(|(number, format)| {
            json!({
                "number": number,
                "lba_bytes": format.block_bytes(),
                "metadata_bytes": format.ms.get(),
            })
        });
        Ok(json!({
            "id": id,
            "blocks": namespace.blocks,
            "lba_bytes": namespace.lba_bytes,
            "metadata_bytes": namespace.metadata_bytes,
            "bytes": namespace.capacity(),
            "used_blocks": identity.nuse.get(),
            "shared": identity.is_shared(),
            "read_only": identity.is_read_only(),
            "format": identity.format_number(),
            "formats": formats.collect::<Value>(),
            "identifiers": optional(controller.identifiers(id))?.map(|all| all.iter().map(identifier).collect::<Value>()),
        }))
    });
    all.collect()
}

fn identifier(identifier: &Identifier) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match identifier {
        Identifier::Eui64(bytes) => json!({ "eui64": hex(bytes) }),
        Identifier::Nguid(bytes) => json!({ "nguid": hex(bytes) }),
        Identifier::Uuid(bytes) => json!({ "uuid": hex(bytes) }),
        Identifier::CommandSet(set) => json!({ "command_set": set }),
        other => json!(format!("{other:?}")),
    }
}

fn health<B: Backing>(controller: &Controller<B>) -> Result<Value> {
    let health = controller.health()?;
    Ok(json!({
        "warnings": names(health.warnings().iter_names().map(|(name, _)| name)),
        "kelvin": health.temperature.get(),
        "spare_percent": health.spare,
        "used_percent": health.used,
        "bytes_read": (health.data_read.get().saturating_mul(512_000)).to_string(),
        "bytes_written": (health.data_written.get().saturating_mul(512_000)).to_string(),
        "reads": health.reads.get().to_string(),
        "writes": health.writes.get().to_string(),
        "power_on_hours": health.power_on_hours.get().to_string(),
        "unsafe_shutdowns": health.unsafe_shutdowns.get().to_string(),
        "media_errors": health.media_errors.get().to_string(),
    }))
}

fn errors<B: Backing>(controller: &Controller<B>) -> Result<Value> {
    let entries = controller.error_log()?;
    let entry = |entry: &drivers::nvme::spec::log::ErrorEntry| {
        json!({
            "number": entry.error_count.get(),
            "queue": entry.sqid.get(),
            "status": entry.status().to_string(),
            "namespace": entry.nsid.get(),
            "lba": entry.lba.get(),
        })
    };
    Ok(entries.iter().map(entry).collect())
}

fn firmware<B: Backing>(controller: &Controller<B>) -> Result<Value> {
    let slots = controller.firmware_slots()?;
    let revisions = slots
        .slots()
        .map(|(slot, revision)| json!({ "slot": slot, "revision": revision }));
    Ok(json!({ "active": slots.active(), "slots": revisions.collect::<Value>() }))
}

/// Null without virtualization management.
fn secondary<B: Backing>(controller: &Controller<B>) -> Result<Value> {
    let Some(all) = optional(controller.secondary_controllers())? else {
        return Ok(Value::Null);
    };
    let one = |one: &drivers::nvme::spec::virtualization::SecondaryController| {
        json!({
            "id": one.scid.get(),
            "virtual_function": one.vfn.get(),
            "online": one.is_online(),
            "queues": one.nvq.get(),
            "interrupts": one.nvi.get(),
        })
    };
    Ok(all.iter().map(one).collect())
}

/// What a controller need not have.
fn optional<T>(asked: Result<T>) -> Result<Option<T>> {
    match asked {
        Err(error) if matches!(error.kind, ErrorKind::Refused(_) | ErrorKind::Unsupported(_)) => Ok(None),
        asked => asked.map(Some),
    }
}

/// As lines, indented by what they belong to.
fn print(value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(_) => {
                        println!("{indent}{name}:");
                        print(value, depth + 1);
                    }
                    Value::Array(all) if all.iter().any(Value::is_object) => {
                        println!("{indent}{name}:");
                        for value in all {
                            println!("{indent}  -");
                            print(value, depth + 2);
                        }
                    }
                    Value::Array(all) => {
                        let all: Vec<_> = all.iter().map(text).collect();
                        println!("{indent}{name}: {}", all.join(", "));
                    }
                    value => println!("{indent}{name}: {}", text(value)),
                }
            }
        }
        value => println!("{indent}{}", text(value)),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
