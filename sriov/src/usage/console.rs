//! Displays that somebody looks at: the one that the firmware used, and those whose frame buffer the kernel's console may be
//! on (`Documentation/ABI/testing/sysfs-bus-pci` `boot_vga`, `Documentation/fb/fbcon.rst`).

use super::{Usage, Use};
use crate::file;
use pci::{Sysfs, Topology};
use std::path::Path;

/// Base class of display controllers.
const DISPLAY: u8 = 0x03;

pub(super) fn read(sysfs: &Sysfs, topology: &Topology, usage: &mut Usage) {
    for function in topology.functions() {
        let is_display = function.class.as_ref().is_ok_and(|class| class.base() == DISPLAY);
        if is_display && sysfs.read(function.path.join("boot_vga")).is_ok_and(|text| text == "1") {
            usage.add(function.bdf, vec![Use::BootVga]);
        }
    }
    if !has_framebuffer_console(sysfs, usage) {
        return;
    }
    let class = Path::new("sys/class/graphics");
    for framebuffer in usage.known(file::names(sysfs, class)) {
        let link = sysfs.read_link(class.join(&framebuffer)).ok();
        if let Some(function) = link.as_deref().and_then(file::function_of) {
            usage.add(function, vec![Use::Console { framebuffer }]);
        }
    }
}

/// Whether the console is on frame buffers at all. On which of several is not to be read anywhere.
fn has_framebuffer_console(sysfs: &Sysfs, usage: &mut Usage) -> bool {
    let class = Path::new("sys/class/vtconsole");
    usage.known(file::names(sysfs, class)).iter().any(|console| {
        let is = |file: &str, wanted: fn(&str) -> bool| {
            sysfs
                .read(class.join(console).join(file))
                .is_ok_and(|text| wanted(&text))
        };
        is("name", |name| name.contains("frame buffer")) && is("bind", |bind| bind == "1")
    })
}
