//! The text files of a generated function (`Documentation/ABI/testing/sysfs-bus-pci`).

use super::node::{Node, Port, Role};

/// Names and contents; those that can only be written are empty.
pub(super) fn of(node: &Node) -> Vec<(&'static str, String)> {
    let mut files: Vec<_> = [
        ("broken_parity_status", "0\n"),
        ("consistent_dma_mask_bits", "64\n"),
        ("d3cold_allowed", "1\n"),
        ("dma_mask_bits", "64\n"),
        ("driver_override", "(null)\n"),
        ("enable", "1\n"),
        ("irq", "16\n"),
        ("local_cpulist", "0-31\n"),
        ("local_cpus", "ffffffff\n"),
        ("msi_bus", "1\n"),
        ("power_state", "D0\n"),
        ("power/control", "on\n"),
        ("power/runtime_status", "active\n"),
        ("remove", ""),
        ("rescan", ""),
        ("revision", "0x01\n"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    let (vendor, device) = node.id;
    let (subsystem_vendor, subsystem_device) = node.subsystem;
    let class = node.class;
    let modalias = format!(
        "pci:v{vendor:08X}d{device:08X}sv{subsystem_vendor:08X}sd{subsystem_device:08X}bc{:02X}sc{:02X}i{:02x}",
        class >> 16,
        class >> 8 & 0xff,
        class & 0xff
    );
    let driver = node
        .driver
        .as_ref()
        .map(|name| format!("DRIVER={name}\n"))
        .unwrap_or_default();
    let uevent = format!(
        "{driver}PCI_CLASS={class:X}\nPCI_ID={vendor:04X}:{device:04X}\nPCI_SUBSYS_ID={subsystem_vendor:04X}:{subsystem_device:04X}\n\
         PCI_SLOT_NAME={}\nMODALIAS={modalias}\n",
        node.bdf
    );
    files.extend([
        ("class", format!("{class:#08x}\n")),
        ("device", format!("{device:#06x}\n")),
        ("modalias", modalias + "\n"),
        ("numa_node", format!("{}\n", node.numa_node)),
        ("resource", resource(node)),
        ("subsystem_device", format!("{subsystem_device:#06x}\n")),
        ("subsystem_vendor", format!("{subsystem_vendor:#06x}\n")),
        ("uevent", uevent),
        ("vendor", format!("{vendor:#06x}\n")),
        ("ari_enabled", "0\n".to_owned()),
    ]);
    if let Some((speed, width)) = node.link {
        let speed = match speed {
            0 => "Unknown\n".to_owned(),
            tenths => format!("{}.{} GT/s PCIe\n", tenths / 10, tenths % 10),
        };
        files.extend([
            ("current_link_speed", speed.clone()),
            ("current_link_width", format!("{width}\n")),
            ("max_link_speed", speed),
            ("max_link_width", format!("{width}\n")),
        ]);
    }
    if let Some((secondary, subordinate)) = node.buses {
        files.extend([
            ("secondary_bus_number", format!("{secondary}\n")),
            ("subordinate_bus_number", format!("{subordinate}\n")),
        ]);
    }
    let is_bridge = class >> 8 == 0x0604;
    if is_bridge {
        files.extend([
            ("reset_method", "pm bus\n".to_owned()),
            ("reset_subordinate", String::new()),
        ]);
    } else {
        files.extend([("reset_method", "flr bus\n".to_owned()), ("reset", String::new())]);
    }
    if let Role::Physical {
        total,
        offset,
        stride,
        vf_device,
    } = node.sriov
    {
        files.extend([
            ("sriov_drivers_autoprobe", "1\n".to_owned()),
            ("sriov_numvfs", "0\n".to_owned()),
            ("sriov_offset", format!("{offset}\n")),
            ("sriov_stride", format!("{stride}\n")),
            ("sriov_totalvfs", format!("{total}\n")),
            ("sriov_vf_device", format!("{vf_device:x}\n")),
            ("sriov_vf_total_msix", "0\n".to_owned()),
        ]);
    }
    if node.port == Port::Conventional {
        files.retain(|(name, _)| *name != "ari_enabled");
    }
    files
}

/// BAR 0 at an address made of the function's own, VF BAR 0 for a PF, one memory window for a bridge.
fn resource(node: &Node) -> String {
    const MEMORY_64: u64 = 0x14_0204;
    const WINDOW: u64 = 0x0200;
    let is_bridge = node.class >> 8 == 0x0604;
    let base = u64::from(node.bdf.routing_id.0) << 32;
    let mut lines = vec![(0, 0, 0); if is_bridge { 17 } else { 13 }];
    let mut set = |line: usize, start: u64, len: u64, flags: u64| {
        if let Some(slot) = lines.get_mut(line).filter(|_| len > 0) {
            *slot = (start, start + len - 1, flags);
        }
    };
    set(0, base, node.bar_bytes, MEMORY_64);
    if let Role::Physical { total, .. } = node.sriov {
        set(7, base + node.bar_bytes, node.bar_bytes * u64::from(total), MEMORY_64);
    }
    if is_bridge {
        set(14, base, 1 << 30, WINDOW);
    }
    let line = |(start, end, flags): &(u64, u64, u64)| format!("{start:#018x} {end:#018x} {flags:#018x}\n");
    lines.iter().map(line).collect()
}
