//! What look-ups in configuration space answer.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use pci::cap::{Express, Msi, MsiX, PowerManagement};
use pci::ecap::{Acs, Ari, Ats, Dvsec, Pasid, Pri, Sriov};
use pci::{CapabilityId, ConfigSpace, Describe, FindError, HeaderKind, WalkEnd, dump};

fn fixture(name: &str) -> ConfigSpace {
    let file = format!("{}/../tests/fixtures/config/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = String::from_utf8(std::fs::read(file).unwrap()).unwrap();
    dump::parse(&text).unwrap().remove(0).config
}

#[test]
fn a_pf_says_where_its_vfs_are() {
    let sriov = fixture("igb-pf").find::<Sriov>().unwrap().unwrap();
    assert!(sriov.control.vf_enable() && sriov.control.ari_capable_hierarchy());
    assert_eq!(
        (sriov.total_vfs, sriov.num_vfs, sriov.first_vf_offset, sriov.vf_stride),
        (8, 2, 0x80, 2)
    );
    assert_eq!(sriov.vf_device, pci::DeviceId(0x10ca));
    assert_eq!(sriov.system_page_size.bytes().collect::<Vec<_>>(), [4096]);
    assert!(sriov.vf_bars[0].is_memory_64() && sriov.vf_bars[0].is_prefetchable());
}

#[test]
fn enable_bits_of_address_translation_are_found() {
    assert!(
        fixture("virtio-net-ats")
            .find::<Ats>()
            .unwrap()
            .unwrap()
            .control
            .enable()
    );
    let composed = fixture("composed-endpoint");
    let ats = composed.find::<Ats>().unwrap().unwrap();
    assert_eq!(ats.capability.invalidate_queue_depth().requests(), 16);
    assert_eq!(ats.control.smallest_translation_unit().bytes(), 32768);
    assert!(composed.find::<Pri>().unwrap().unwrap().control.enable());
    assert_eq!(
        composed.find::<Pasid>().unwrap().unwrap().capability.max_width_bits(),
        20
    );
    assert_eq!(composed.find::<Ari>().unwrap().unwrap().capability.next_function(), 2);
}

#[test]
fn msi_x_counts_to_2048() {
    let msix = fixture("composed-endpoint").find::<MsiX>().unwrap().unwrap();
    assert_eq!(
        (
            msix.control.vectors().vectors(),
            msix.table.bar(),
            msix.pending.offset()
        ),
        (2048, 2, 0x20000)
    );
}

#[test]
fn msi_is_read_in_all_four_layouts() {
    let layout = |name: &str, index: usize| {
        let space = fixture(name);
        let all: Vec<Msi> = space
            .capabilities()
            .items
            .iter()
            .filter_map(|c| c.decode().map(Result::unwrap))
            .collect();
        let msi = &all[index];
        (
            msi.address.0,
            msi.data.0,
            msi.mask.map(|mask| mask.0),
            msi.pending.map(|pending| pending.0),
        )
    };
    assert_eq!(layout("composed-integrated", 0), (0xfee0_0000, 0x4041, None, None));
    assert_eq!(layout("composed-integrated", 1), (0x2_fee0_0000, 0x4051, None, None));
    assert_eq!(layout("composed-root-port", 0), (0xfee0_0000, 0x4031, Some(1), Some(2)));
    assert_eq!(
        layout("composed-endpoint", 0),
        (0x1_fee0_0318, 0x4021, Some(0xf), Some(5))
    );
}

#[test]
fn a_bridge_says_its_buses_and_windows() {
    let header = fixture("composed-root-port").header().unwrap();
    let HeaderKind::Bridge(bridge) = header.kind else {
        panic!("{:?}", header.kind)
    };
    assert_eq!(
        (bridge.primary_bus, bridge.secondary_bus, bridge.subordinate_bus),
        (0, 0x3b, 0x3c)
    );
    assert_eq!((bridge.io_base.0, bridge.io_limit.0), (0x13000, 0x14fff));
    assert_eq!(
        (bridge.memory_base.0, bridge.memory_limit.0),
        (0xc000_0000, 0xcfff_ffff)
    );
    assert_eq!(
        (bridge.prefetchable_base.0, bridge.prefetchable_limit.0),
        (0x38_0000_0000, 0x3b_ffff_ffff)
    );
}

#[test]
fn a_capability_that_a_conventional_function_cannot_have_is_known_to_be_absent() {
    let conventional = fixture("composed-cardbus");
    assert_eq!(conventional.bytes().len(), 256);
    assert_eq!(conventional.find::<Sriov>(), Ok(None));
    assert_eq!(conventional.find::<Express>(), Ok(None));
}

#[test]
fn a_short_image_does_not_claim_that_a_capability_is_absent() {
    let (header, standard) = (fixture("short-64"), fixture("short-256"));
    assert_eq!(
        header.find::<MsiX>(),
        Err(FindError::List(WalkEnd::Truncated { at: 0x40 }))
    );
    assert_eq!(
        header.find::<Ats>(),
        Err(FindError::List(WalkEnd::Truncated { at: 0x100 }))
    );
    assert!(standard.find::<MsiX>().unwrap().is_some());
    assert_eq!(
        standard.find::<Ats>(),
        Err(FindError::List(WalkEnd::Truncated { at: 0x100 }))
    );
}

#[test]
fn broken_lists_show_what_came_before_and_say_how_they_end() {
    let ends = |name: &str| {
        (
            fixture(name).capabilities().end,
            fixture(name).extended_capabilities().end,
        )
    };
    let looping = (
        WalkEnd::Loop { from: 0x60, to: 0x50 },
        WalkEnd::Loop { from: 0x110, to: 0x100 },
    );
    assert_eq!(ends("broken-loop"), looping);
    let outside = (
        WalkEnd::OutOfRange { from: 0x50, to: 0x20 },
        WalkEnd::OutOfRange { from: 0x100, to: 0xc0 },
    );
    assert_eq!(ends("broken-range"), outside);
    assert_eq!(
        ends("broken-all-ones"),
        (WalkEnd::AllOnes { at: 0xa0 }, WalkEnd::AllOnes { at: 0x100 })
    );
    let broken = fixture("broken-loop");
    assert!(broken.find::<PowerManagement>().unwrap().is_some());
    assert_eq!(broken.find::<Msi>(), Err(FindError::List(looping.0)));
}

#[test]
fn a_capability_that_is_cut_off_is_listed_and_is_not_decoded() {
    let space = fixture("broken-cut-off");
    let walk = space.extended_capabilities();
    assert_eq!((walk.items.len(), walk.end), (6, WalkEnd::Complete));
    let error = space.find::<Sriov>().unwrap_err();
    assert_eq!(error, FindError::Truncated(pci::Truncated { at: 0x120 }));
    assert_eq!(error.to_string(), "cut off: the register at 0x120 is not there");
}

#[test]
fn an_express_capability_without_room_for_version_2_shows_version_1() {
    let mut image = vec![0; 256];
    image[0x06] = 0x10;
    image[0x34] = 0xd8;
    image[0xd8..0xdc].copy_from_slice(&[0x10, 0x00, 0x02, 0x00]);
    image[0xe4] = 0x13;
    let express = ConfigSpace::new(image).find::<Express>().unwrap().unwrap();
    assert_eq!(
        express
            .link_capabilities
            .map(|link| (link.max_speed().0, link.max_width())),
        Some((3, 1))
    );
    assert_eq!(
        (express.device_capabilities_2.is_some(), express.device_control_2),
        (true, None)
    );
}

#[test]
fn unknown_capabilities_keep_their_number_and_bytes() {
    let space = fixture("composed-endpoint");
    let walk = space.extended_capabilities();
    let unknown = walk
        .items
        .iter()
        .find(|c| c.id() == CapabilityId::Extended(0xfed))
        .unwrap();
    assert_eq!(
        (unknown.offset(), unknown.version(), unknown.id().name()),
        (0x480, Some(3), None)
    );
    assert_eq!(unknown.to_string(), "[480] unknown capability 0x0fed v3");
    assert_eq!(unknown.contents().to_string(), "{raw=ed0f0300ea1dadab}");
    assert_eq!(unknown.bytes().len(), 0x1000 - 0x480);
}

#[test]
fn vendor_structures_end_where_they_say() {
    let dvsec = fixture("composed-endpoint").find::<Dvsec>().unwrap().unwrap();
    assert_eq!(
        (dvsec.vendor, dvsec.id.0, dvsec.len_bytes),
        (pci::VendorId(0x1e98), 0, 20)
    );
    assert_eq!(
        dvsec.data.0,
        [0x34, 0x12, 0xef, 0xcd, 0xab, 0x89, 0x77, 0x77, 0x77, 0x77]
    );
}

#[test]
fn what_a_port_isolates_is_told_apart_from_what_it_could() {
    let acs = fixture("composed-root-port").find::<Acs>().unwrap().unwrap();
    assert!(acs.capability.translation_blocking() && !acs.control.translation_blocking());
    assert!(acs.control.source_validation() && acs.control.upstream_forwarding());
    assert_eq!(acs.egress_vector, None);
}

#[test]
fn described_values_can_be_looked_up_by_name() {
    let value = fixture("igb-pf").describe();
    let capabilities = value.field("extended_capabilities").unwrap().to_string();
    assert!(
        capabilities.contains("name=SR-IOV") && capabilities.contains("first_vf_offset=128"),
        "{capabilities}"
    );
    assert_eq!(value.field("capabilities_end").unwrap().to_string(), "complete");
    assert_eq!(
        value
            .field("header")
            .and_then(|header| header.field("vendor"))
            .unwrap()
            .to_string(),
        "0x8086"
    );
}
