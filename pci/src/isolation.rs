//! What keeps a function's DMA apart from its neighbours on the way to the root: Access Control Services on every hop.
//!
//! [`Topology::isolation`] lists the hops and says which of them lacks isolation and why;
//! [`HopFacts::isolation`] decides about one hop from decoded values alone. The rules are the kernel's (`pci_acs_enabled` in `drivers/pci/pci.c`, `pci_device_group` in
//! `drivers/iommu/iommu.c`; PCIe 6.0 §6.12). Not known here are the kernel's quirks for devices that isolate without saying
//! so: where groups are finer than this analysis explains, a quirk is why.

use crate::cap::{Express, PortType};
use crate::ecap::{Acs, AcsCapability, AcsControl};
use crate::{Bdf, ConfigSpace, Function, Reading, Sysfs, Topology, Unknown};
use std::fmt;

/// A function on the way of a request to the root, and whether it keeps requests from turning to its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The function.
    pub bdf: Bdf,
    /// What it does; unknown where its configuration space is not readable (which takes root).
    pub isolation: Reading<Isolation>,
}

/// What a hop does for isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing needs to be done: it is the only function of its device.
    Alone,
    /// Access Control Services send requests between neighbours up to the root.
    Enforced,
    /// It does not isolate.
    Lacking(Gap),
}

/// Why a hop does not isolate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// Conventional PCI: all functions share a bus on which anyone can answer.
    Conventional,
    /// A bridge to conventional PCI: requests from below carry one requester id, that of the bridge.
    SharedRequesterId,
    /// It has no ACS capability and so says nothing about requests between neighbours.
    NoCapability,
    /// It has the capability; these controls are supported and off.
    Off(AcsControls),
}

bitflags::bitflags! {
    /// The ACS controls on which isolation rests (bits of the ACS control register, PCIe 6.0 §7.7.11.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct AcsControls: u16 {
        /// Requester ids are checked.
        const SOURCE_VALIDATION = 1;
        /// Requests between neighbours go up to the root.
        const REQUEST_REDIRECT = 1 << 2;
        /// Completions between neighbours go up to the root.
        const COMPLETION_REDIRECT = 1 << 3;
        /// What the root sends back is forwarded.
        const UPSTREAM_FORWARDING = 1 << 4;
    }
}

/// What decides about a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopFacts {
    /// Its kind; `None` for conventional PCI.
    pub port_type: Option<PortType>,
    /// Its ACS registers, if it has any.
    pub acs: Option<(AcsCapability, AcsControl)>,
    /// Whether its device has other functions. VFs do not count as such.
    pub is_multifunction: bool,
    /// Whether the request starts here rather than passing through.
    pub is_start: bool,
}

impl HopFacts {
    /// Whether the hop isolates.
    #[must_use]
    pub fn isolation(self) -> Isolation {
        // A request that starts here meets neighbours inside its own device only.
        if self.is_start && !self.is_multifunction {
            return Isolation::Alone;
        }
        match self.port_type {
            None => Isolation::Lacking(Gap::Conventional),
            Some(PortType::EVENT_COLLECTOR) => Isolation::Lacking(Gap::NoCapability),
            Some(PortType::TO_PCI_BRIDGE | PortType::FROM_PCI_BRIDGE) => Isolation::Lacking(Gap::SharedRequesterId),
            // Ports that fan out: whatever else their device has.
            Some(PortType::ROOT_PORT | PortType::DOWNSTREAM_PORT) => by_controls(self.acs),
            Some(_) if self.is_multifunction => by_controls(self.acs),
            Some(_) => Isolation::Alone,
        }
    }
}

/// A control that the capability does not offer is hard-wired on, or does not apply.
fn by_controls(acs: Option<(AcsCapability, AcsControl)>) -> Isolation {
    let Some((capability, control)) = acs else {
        return Isolation::Lacking(Gap::NoCapability);
    };
    let offered = AcsControls::from_bits_truncate(capability.into_bits());
    let off = offered - AcsControls::from_bits_truncate(control.into_bits());
    if off.is_empty() {
        Isolation::Enforced
    } else {
        Isolation::Lacking(Gap::Off(off))
    }
}

impl Topology {
    /// The hops of a function's requests: itself, then the bridges above it up to its root port. Reads the configuration space
    /// of these functions and no other; empty for a function that is not in the snapshot.
    #[must_use]
    pub fn isolation(&self, sysfs: &Sysfs, bdf: Bdf) -> Vec<Hop> {
        let start = self.function(bdf);
        let hops = start.into_iter().chain(self.parents(bdf));
        let hop = |function: &Function| Hop {
            bdf: function.bdf,
            isolation: facts(sysfs, function, function.bdf == bdf).map(HopFacts::isolation),
        };
        hops.map(hop).collect()
    }
}

fn facts(sysfs: &Sysfs, function: &Function, is_start: bool) -> Reading<HopFacts> {
    let config = function.config(sysfs)?;
    let unknown = |reason| Unknown::config(sysfs, function, &config, &reason);
    let express = config.find::<Express>().map_err(unknown)?;
    let acs = match express {
        Some(_) => config.find::<Acs>().map_err(unknown)?,
        None => None,
    };
    Ok(HopFacts {
        port_type: express.map(|express| express.flags.port_type()),
        acs: acs.map(|acs| (acs.capability, acs.control)),
        is_multifunction: is_multifunction(function, &config),
        is_start,
    })
}

/// As the kernel counts: the header says so, or the function is not the first of its device.
fn is_multifunction(function: &Function, config: &ConfigSpace) -> bool {
    const HEADER_TYPE: u16 = 0x0e;
    const MULTIFUNCTION: u8 = 0x80;
    if matches!(function.vf_of, Ok(Some(_))) {
        return false;
    }
    let id = function.bdf.routing_id;
    // Below a port there is one device, and with ARI its functions fill the device number, too.
    let number = if function.parent.is_some() {
        id.devfn()
    } else {
        id.function()
    };
    number != 0 || config.u8(HEADER_TYPE).is_some_and(|kind| kind & MULTIFUNCTION != 0)
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("the only function of its device"),
            Self::Enforced => f.write_str("ACS sends requests between neighbours to the root"),
            Self::Lacking(gap) => gap.fmt(f),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conventional => f.write_str("conventional PCI has no isolation"),
            Self::SharedRequesterId => {
                f.write_str("everything below the bridge to conventional PCI has one requester id")
            }
            Self::NoCapability => f.write_str("no ACS capability"),
            Self::Off(controls) => write!(f, "ACS is off: {controls}"),
        }
    }
}

impl fmt::Display for AcsControls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, _)) in self.iter_names().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{}", name.to_ascii_lowercase().replace('_', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source validation, request and completion redirect, upstream forwarding.
    const ALL: u16 = 0x1d;

    fn facts(port_type: Option<PortType>, acs: Option<(u16, u16)>) -> HopFacts {
        HopFacts {
            port_type,
            acs: acs
                .map(|(capability, control)| (AcsCapability::from_bits(capability), AcsControl::from_bits(control))),
            is_multifunction: false,
            is_start: false,
        }
    }

    #[test]
    fn a_port_isolates_when_all_that_it_offers_is_on() {
        for port in [PortType::ROOT_PORT, PortType::DOWNSTREAM_PORT] {
            assert_eq!(facts(Some(port), Some((ALL, ALL))).isolation(), Isolation::Enforced);
            assert_eq!(
                facts(Some(port), Some((0x04, 0x04))).isolation(),
                Isolation::Enforced,
                "the rest is hard-wired"
            );
            assert_eq!(
                facts(Some(port), Some((0xff, ALL))).isolation(),
                Isolation::Enforced,
                "the rest does not matter"
            );
            assert_eq!(
                facts(Some(port), None).isolation(),
                Isolation::Lacking(Gap::NoCapability)
            );
        }
    }

    #[test]
    fn the_controls_that_are_off_are_named() {
        let isolation = facts(Some(PortType::ROOT_PORT), Some((ALL, 0x11))).isolation();
        let off = AcsControls::REQUEST_REDIRECT | AcsControls::COMPLETION_REDIRECT;
        assert_eq!(isolation, Isolation::Lacking(Gap::Off(off)));
        assert_eq!(
            isolation.to_string(),
            "ACS is off: request redirect, completion redirect"
        );
    }

    #[test]
    fn an_endpoint_or_upstream_port_matters_only_beside_other_functions() {
        for port in [
            PortType::ENDPOINT,
            PortType::LEGACY_ENDPOINT,
            PortType::UPSTREAM_PORT,
            PortType::ROOT_COMPLEX_ENDPOINT,
        ] {
            let alone = facts(Some(port), None);
            let beside = HopFacts {
                is_multifunction: true,
                ..alone
            };
            assert_eq!(alone.isolation(), Isolation::Alone);
            assert_eq!(beside.isolation(), Isolation::Lacking(Gap::NoCapability));
            let enforced = HopFacts {
                is_multifunction: true,
                ..facts(Some(port), Some((0x0c, 0x0c)))
            };
            assert_eq!(enforced.isolation(), Isolation::Enforced);
        }
    }

    #[test]
    fn conventional_pci_isolates_nothing() {
        assert_eq!(facts(None, None).isolation(), Isolation::Lacking(Gap::Conventional));
        for bridge in [PortType::TO_PCI_BRIDGE, PortType::FROM_PCI_BRIDGE] {
            let isolation = facts(Some(bridge), Some((ALL, ALL))).isolation();
            assert_eq!(isolation, Isolation::Lacking(Gap::SharedRequesterId));
        }
    }

    #[test]
    fn a_single_conventional_function_is_alone_where_its_requests_start() {
        let start = HopFacts {
            is_start: true,
            ..facts(None, None)
        };
        assert_eq!(start.isolation(), Isolation::Alone);
        let beside = HopFacts {
            is_multifunction: true,
            ..start
        };
        assert_eq!(beside.isolation(), Isolation::Lacking(Gap::Conventional));
    }
}
