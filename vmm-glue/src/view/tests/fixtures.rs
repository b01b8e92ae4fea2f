//! Devices that exist, as a guest sees them.

use super::*;
use ::pci::dump;

const IGB_VF: &str = include_str!("../../../../tests/fixtures/config/igb-vf.txt");
const IGB_PF: &str = include_str!("../../../../tests/fixtures/config/igb-pf.txt");
const NVME_VF: &str = include_str!("../../../../tests/fixtures/config/nvme-vf.txt");
const NVME_PF: &str = include_str!("../../../../tests/fixtures/config/nvme-pf.txt");
const VIRTIO: &str = include_str!("../../../../tests/fixtures/config/virtio-net-ats.txt");
const MICROVM: &str = include_str!("../../../../tests/fixtures/config/virtio-microvm.txt");
const E1000E: &str = include_str!("../../../../tests/fixtures/config/e1000e.txt");
const XHCI: &str = include_str!("../../../../tests/fixtures/config/xhci.txt");
const COMPOSED: &str = include_str!("../../../../tests/fixtures/config/composed-endpoint.txt");
const INTEGRATED: &str = include_str!("../../../../tests/fixtures/config/composed-integrated.txt");
const LOOP: &str = include_str!("../../../../tests/fixtures/config/broken-loop.txt");
const RANGE: &str = include_str!("../../../../tests/fixtures/config/broken-range.txt");
const CUT_OFF: &str = include_str!("../../../../tests/fixtures/config/broken-cut-off.txt");
const ALL_ONES: &str = include_str!("../../../../tests/fixtures/config/broken-all-ones.txt");
const SHORT: &str = include_str!("../../../../tests/fixtures/config/short-64.txt");
const SWITCH: &str = include_str!("../../../../tests/fixtures/config/switch.txt");
const CARDBUS: &str = include_str!("../../../../tests/fixtures/config/composed-cardbus.txt");

/// The first function of a dump, with BARs of this size.
fn device(dump: &str, bar_size: u64) -> Device {
    let function = dump::parse(dump).unwrap().into_iter().next().unwrap();
    Device {
        config: function.config,
        bar_sizes: [bar_size; 6],
        rom_size: 0,
    }
}

fn names(space: &ConfigSpace) -> String {
    let walks = [space.capabilities(), space.extended_capabilities()];
    assert!(walks.iter().all(|walk| walk.end.is_complete()));
    let mut items = walks.iter().flat_map(|walk| &walk.items);
    let mut names = String::new();
    for capability in &mut items {
        names += &format!("{:x} {}, ", capability.offset(), capability.id());
    }
    names.trim_end_matches(", ").to_owned()
}

/// Everything that the guest reads; the function's own bytes are those of the image.
fn seen(device: &Device, view: &ConfigView) -> ConfigSpace {
    let mut image = vec![0; 4096];
    for (offset, word) in (0_u16..).step_by(4).zip(image.chunks_exact_mut(4)) {
        view.read(offset, word, |own| {
            let bytes = device.config.bytes().get(usize::from(offset)..).unwrap_or_default();
            own.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        });
    }
    ConfigSpace::new(image)
}

fn shown(dump: &str, options: &Presentation) -> String {
    let device = device(dump, 1 << 16);
    let view = ConfigView::new(&device, options).unwrap();
    names(&seen(&device, &view))
}

#[test]
fn drivers_find_what_they_need_and_none_of_what_is_the_hosts() {
    let cases = [
        (IGB_VF, "a0 PCI Express, 70 MSI-X, 100 Advanced Error Reporting"),
        (
            IGB_PF,
            "40 Power Management, 50 MSI, 70 MSI-X, a0 PCI Express, 100 Advanced Error Reporting",
        ),
        (NVME_VF, "40 MSI-X, 80 PCI Express, 60 Power Management"),
        (NVME_PF, "40 MSI-X, 80 PCI Express, 60 Power Management"),
        (
            VIRTIO,
            "dc MSI-X, c8 Vendor Specific, b4 Vendor Specific, a4 Vendor Specific, 94 Vendor Specific, 84 Vendor Specific, \
             7c Power Management, 40 PCI Express, 100 Advanced Error Reporting",
        ),
        (
            E1000E,
            "c8 Power Management, d0 MSI, e0 PCI Express, a0 MSI-X, 100 Advanced Error Reporting, 140 Device Serial Number",
        ),
        (XHCI, "90 MSI-X, a0 PCI Express, 70 MSI"),
        (
            COMPOSED,
            "40 Power Management, 48 MSI, 70 PCI Express, b0 Vendor Specific, c0 Vital Product Data, \
             100 Advanced Error Reporting, 148 Device Serial Number, 400 Vendor-Specific Extended, \
             420 Designated Vendor-Specific",
        ),
        (INTEGRATED, "40 PCI Express, 80 Advanced Features, c0 MSI"),
        (LOOP, "40 Power Management, 50 Vendor Specific, 60 PCI Express"),
        (RANGE, "40 Power Management, 50 PCI Express"),
        // MSI-X at 4c would need the bytes of MSI.
        (
            CUT_OFF,
            "40 PCI Express, 50 MSI, f8 Power Management, 100 Advanced Error Reporting",
        ),
    ];
    for (dump, expected) in cases {
        assert_eq!(shown(dump, &Presentation::default()), expected);
    }
}

#[test]
fn what_is_asked_for_is_shown_and_what_is_not_wanted_is_hidden() {
    let all = [
        CapabilityId::SRIOV,
        CapabilityId::ARI,
        CapabilityId::ATS,
        CapabilityId::PRI,
        CapabilityId::PASID,
        CapabilityId::RESIZABLE_BAR,
    ];
    let options = all.into_iter().fold(Presentation::default(), Presentation::show);
    let with = shown(COMPOSED, &options);
    let own = device(COMPOSED, 0).config;
    for id in all {
        let is_there = own.extended_capabilities().items.iter().any(|own| own.id() == id);
        assert_eq!(with.contains(id.name().unwrap()), is_there, "{id}");
    }
    assert!(
        shown(IGB_PF, &options).ends_with("ARI, 160 SR-IOV"),
        "{}",
        shown(IGB_PF, &options)
    );
    let without = Presentation::default()
        .hide(CapabilityId::MSI_X)
        .hide(CapabilityId::AER);
    assert_eq!(shown(IGB_VF, &without), "a0 PCI Express");
}

#[test]
fn a_list_whose_first_capability_is_hidden_begins_with_a_null_capability() {
    let device = device(IGB_PF, 1 << 16);
    let mut options = Presentation::default().hide(CapabilityId::AER).show(CapabilityId::ARI);
    options.next_function = 3;
    let view = ConfigView::new(&device, &options).unwrap();
    let own = device.config.extended_capabilities();
    let ari = own.items.iter().find(|own| own.id() == CapabilityId::ARI);
    let offset = ari.unwrap().offset();
    assert_eq!(u32_at(&view, 0x100), u32::from(offset) << 20);
    assert_eq!(read::<4>(&view, 0x104), [0; 4]);
    assert_eq!(read(&view, offset + 5), [3], "where the guest has the next function");
}

#[test]
fn a_conventional_function_has_no_extended_space() {
    let functions = dump::parse(MICROVM).unwrap();
    for function in functions {
        let device = Device {
            config: function.config,
            bar_sizes: [1 << 14; 6],
            rom_size: 0,
        };
        let view = ConfigView::new(&device, &Presentation::default()).unwrap();
        for offset in (0x100..0x1000).step_by(4) {
            assert_eq!(read::<4>(&view, offset), [0; 4]);
        }
    }
}

#[test]
fn bridges_and_what_does_not_answer_are_refused() {
    for (dump, why) in [(SWITCH, "it is a bridge"), (CARDBUS, "it is a bridge")] {
        let error = ConfigView::new(&device(dump, 0), &Presentation::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("show the function to the guest: {why}"));
    }
    let mut gone = device(IGB_VF, 0);
    for (len, why) in [
        (64, "it does not answer"),
        (63, "its configuration space ends within the header"),
        (0, "its configuration space ends within the header"),
    ] {
        gone.config = ConfigSpace::new(vec![0xFF; len]);
        let error = ConfigView::new(&gone, &Presentation::default()).unwrap_err();
        assert!(error.to_string().ends_with(why), "{error}");
    }
    // The first 64 bytes are enough for a function without capabilities.
    assert_eq!(shown(SHORT, &Presentation::default()), "");
}

#[test]
fn a_list_that_ends_in_ones_ends_before_them() {
    let names = shown(ALL_ONES, &Presentation::default());
    let own = device(ALL_ONES, 0).config;
    assert!(!own.capabilities().end.is_complete() || !own.extended_capabilities().end.is_complete());
    assert!(!names.contains("unknown"), "{names}");
}

#[test]
fn a_virtual_function_has_the_identity_that_it_is_given() {
    let device = device(IGB_VF, 0);
    let options = Presentation {
        identity: Some((0x8086, 0x10CA)),
        ..Presentation::default()
    };
    let view = ConfigView::new(&device, &options).unwrap();
    let header = seen(&device, &view).header().unwrap();
    assert_eq!((header.vendor.0, header.device.0), (0x8086, 0x10CA));
    assert_eq!(header.class, device.config.header().unwrap().class);
}

#[test]
fn an_integrated_endpoint_is_shown_as_one_with_a_link() {
    let device = device(INTEGRATED, 0);
    let own: ::pci::cap::Express = device.config.find().unwrap().unwrap();
    assert!(own.link_capabilities.is_none());
    let view = ConfigView::new(&device, &Presentation::default()).unwrap();
    let shown: ::pci::cap::Express = seen(&device, &view).find().unwrap().unwrap();
    assert_eq!(shown.flags.port_type(), ::pci::cap::PortType::ENDPOINT);
    let link = shown.link_status.unwrap();
    assert_eq!((link.speed().0, link.width()), (1, 1));
}
