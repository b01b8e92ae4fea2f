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

    let mut at = 0x100;
    if let Some(control) = node.acs {
        at = space.extended(
            at,
            0x0d,
            1,
            &[0x1f, 0, control.to_le_bytes()[0], control.to_le_bytes()[1]],
        );
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
        let body: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).chain([0; 36]).collect();
        at = space.extended(at, 0x10, 1, &body);
    }
    // ARI ends the list.
    space.last(at, 0x0e, 1);
    space.0
}

struct Space(Vec<u8>);

impl Space {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Writes a capability and returns where the next one goes, 64 bytes on.
    fn extended(&mut self, at: usize, id: u32, version: u32, body: &[u8]) -> usize {
        let next = at + 0x40;
        let header = id | version << 16 | u32::try_from(next).unwrap_or_default() << 20;
        self.put(at, &header.to_le_bytes());
        self.put(at + 4, body);
        next
    }

    fn last(&mut self, at: usize, id: u32, version: u32) {
        self.put(at, &(id | version << 16).to_le_bytes());
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
