//! The configuration space of a generated function: header, PM and PCI Express capabilities, and the extended capabilities
//! that its node asks for (PCIe 6.0 §7.5, §7.7.11, §9.3.3).

use super::node::{Node, Port, Role};

/// 4,096 bytes, or 256 for conventional PCI.
pub(super) fn bytes(node: &Node) -> Vec<u8> {
    let is_express = node.port != Port::Conventional;
    let mut space = Space(vec![0; if is_express { 4096 } else { 256 }]);
    let is_bridge = node.class >> 8 == 0x0604;
    // Memory and bus master on, a capability list.
    space.put(0x04, &0x0006_u16.to_le_bytes());
    space.put(0x06, &0x0010_u16.to_le_bytes());
    space.put(0x08, &(node.class << 8 | 1).to_le_bytes());
    space.put(0x0e, &[u8::from(is_bridge) | u8::from(node.is_multifunction) << 7]);
    if matches!(node.sriov, Role::Virtual { .. }) {
        space.put(0x00, &[0xff; 4]);
    } else {
        space.put(0x00, &node.id.0.to_le_bytes());
        space.put(0x02, &node.id.1.to_le_bytes());
    }
    if let Some((secondary, subordinate)) = node.buses {
        space.put(0x18, &[node.bdf.routing_id.bus(), secondary, subordinate]);
    }
    if !is_bridge {
        space.put(0x2c, &node.subsystem.0.to_le_bytes());
        space.put(0x2e, &node.subsystem.1.to_le_bytes());
    }
    space.put(0x34, &[0x40]);
    space.put(0x40, &[0x01, if is_express { 0x48 } else { 0 }, 0x03, 0x00]);
    let Some(port_type) = port_type(node.port) else {
        return space.0;
    };
    space.put(0x48, &[0x10, 0x00, 0x02 | port_type << 4, 0x00]);

    for (number, (id, body)) in (0..).zip(extended(node, is_bridge)) {
        space.extended(number, id, &body);
    }
    space.0
}

/// Identifiers and contents of the extended capabilities.
fn extended(node: &Node, is_bridge: bool) -> Vec<(u32, Vec<u8>)> {
    let mut capabilities = Vec::new();
    if let Some(control) = node.acs {
        let [low, high] = control.to_le_bytes();
        capabilities.push((0x0d, vec![0x1f, 0, low, high]));
    }
    if let Role::Physical {
        total,
        offset,
        stride,
        vf_device,
    } = node.sriov
    {
        // Capabilities, control and status, InitialVFs and TotalVFs, NumVFs, offset and stride, VF device id.
        let words = [0, 0, 0, 0, total, total, 0, 0, offset, stride, 0, vf_device];
        let body = words.into_iter().flat_map(u16::to_le_bytes).chain([0; 36]);
        capabilities.push((0x10, body.collect()));
    }
    if node.has_translation {
        // Queue depth 32, page aligned; enabled with the smallest unit.
        capabilities.push((0x0f, vec![0x20, 0x00, 0x00, 0x80]));
    }
    if node.has_translation && !matches!(node.sriov, Role::Virtual { .. }) {
        // Enabled, stopped, response PASID required; capacity 512, allocation 32.
        capabilities.push((0x13, vec![1, 0, 0, 0x81, 0, 2, 0, 0, 32, 0, 0, 0]));
        // Privileged mode, 20 bits; enabled.
        capabilities.push((0x1b, vec![0x04, 20, 0x01, 0x00]));
    }
    if !is_bridge {
        // ARI.
        capabilities.push((0x0e, vec![0; 4]));
    }
    capabilities
}

struct Space(Vec<u8>);

impl Space {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Writes the capability of that number, 64 bytes behind the one before, which comes to lead to it.
    fn extended(&mut self, number: u16, id: u32, body: &[u8]) {
        const FIRST: u16 = 0x100;
        const DISTANCE: u16 = 0x40;
        let at = FIRST + number * DISTANCE;
        self.put(at.into(), &(id | 1 << 16).to_le_bytes());
        self.put(usize::from(at) + 4, body);
        if number > 0 {
            self.put(usize::from(at - DISTANCE) + 2, &(at << 4 | 1).to_le_bytes());
        }
    }
}

fn port_type(port: Port) -> Option<u8> {
    Some(match port {
        Port::Conventional => return None,
        Port::Endpoint => 0,
        Port::Root => 4,
        Port::Upstream => 5,
        Port::Downstream => 6,
        Port::ToPci => 7,
        Port::Integrated => 9,
    })
}
