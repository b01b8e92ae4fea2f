//! The words for values of `pci`, as the kernel spells them; used by tables and JSON alike.

use pci::{LinkState, PowerState, ResetMethod, Sriov};

/// `16.0 GT/s x8`; `?` for what the kernel does not know.
pub(crate) fn link_state(link: LinkState) -> String {
    let speed = link.speed.map_or_else(|| "?".to_owned(), |speed| format!("{}.{} GT/s", speed.0 / 10, speed.0 % 10));
    let width = link.width.map_or_else(|| "x?".to_owned(), |width| format!("x{width}"));
    format!("{speed} {width}")
}

/// As in `reset_method`.
pub(crate) fn reset(method: &ResetMethod) -> String {
    let text = match method {
        ResetMethod::Flr => "flr",
        ResetMethod::AfFlr => "af_flr",
        ResetMethod::Pm => "pm",
        ResetMethod::Bus => "bus",
        ResetMethod::CxlBus => "cxl_bus",
        ResetMethod::Acpi => "acpi",
        ResetMethod::DeviceSpecific => "device_specific",
        ResetMethod::Other(other) => other,
        _ => "other",
    };
    text.to_owned()
}

/// As in `power_state`, in lower case.
pub(crate) fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::D0 => "d0",
        PowerState::D1 => "d1",
        PowerState::D2 => "d2",
        PowerState::D3Hot => "d3hot",
        PowerState::D3Cold => "d3cold",
        _ => "unknown",
    }
}

/// `7/8 VFs`.
pub(crate) fn vf_count(sriov: &Sriov) -> String {
    let total = sriov.total.as_ref().map_or_else(|_| "?".to_owned(), u16::to_string);
    format!("{}/{total} VFs", sriov.virtual_functions.len())
}
