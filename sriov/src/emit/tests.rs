use super::*;
use serde_json::Value;

mod cdi;

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn pf() -> Pf {
    Pf {
        bdf: bdf("3b:00.0"),
        vendor: Some(VendorId(0x8086)),
        device: Some(DeviceId(0x1592)),
        interface: Some("ens-1f0".to_owned()),
        vfs: 4,
        vf_driver: Some("vfio-pci".to_owned()),
    }
}

/// A VF on vfio-pci; nothing of it is unusual.
fn vf(index: u16) -> Handout {
    Handout {
        bdf: bdf(&format!("3b:01.{index}")),
        vendor: Some(VendorId(0x8086)),
        device: Some(DeviceId(0x1889)),
        class: Some(ClassCode(0x02_0000)),
        driver: Some("vfio-pci".to_owned()),
        is_on_vfio: true,
        group: Some(GroupId(40 + u32::from(index))),
        node: Some(index.into()),
        has_iommufd: true,
        pf: Some(pf()),
        index: Some(index),
    }
}

fn function(address: &str) -> Handout {
    Handout {
        bdf: bdf(address),
        class: Some(ClassCode(0x01_0802)),
        pf: None,
        index: None,
        ..vf(0)
    }
}

fn texts(form: Form, functions: &[Handout], wanted: Option<Backend>) -> Vec<String> {
    let emitted = emit(form, functions, wanted, Some("Node-7")).unwrap();
    emitted.into_iter().map(|emitted| emitted.text).collect()
}

fn text(form: Form, address: &str, backend: Backend) -> String {
    texts(form, &[function(address)], Some(backend)).concat()
}

fn refusal(form: Form, function: Handout, wanted: Option<Backend>) -> Error {
    emit(form, &[vf(0), function], wanted, None).unwrap_err()
}

#[test]
fn qemu_names_the_function_and_the_iommufd() {
    assert_eq!(
        text(Form::Qemu, "01:10.0", Backend::Type1),
        "-device vfio-pci,host=0000:01:10.0"
    );
    assert_eq!(
        text(Form::Qemu, "01:10.0", Backend::Iommufd),
        "-object iommufd,id=iommufd0 -device vfio-pci,host=0000:01:10.0,iommufd=iommufd0"
    );
}

#[test]
fn qemu_gets_a_path_where_its_address_is_too_short() {
    assert_eq!(
        text(Form::Qemu, "ffff:01:10.0", Backend::Type1),
        "-device vfio-pci,host=ffff:01:10.0"
    );
    assert_eq!(
        text(Form::Qemu, "10000:01:10.0", Backend::Type1),
        "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/10000:01:10.0"
    );
}

#[test]
fn what_a_command_line_says_once_is_there_once() {
    let older = Handout {
        has_iommufd: false,
        ..vf(2)
    };
    let qemu = emit(Form::Qemu, &[older.clone(), vf(0), vf(1)], None, None).unwrap();
    assert_eq!((qemu.len(), qemu[0].backend), (1, None));
    assert_eq!(
        qemu[0].text,
        "-device vfio-pci,host=0000:3b:01.2 -object iommufd,id=iommufd0 \
         -device vfio-pci,host=0000:3b:01.0,iommufd=iommufd0 -device vfio-pci,host=0000:3b:01.1,iommufd=iommufd0"
    );
    assert_eq!(
        texts(Form::CloudHypervisor, &[vf(0), vf(1)], None),
        [
            "--platform iommufd=on --device path=/sys/bus/pci/devices/0000:3b:01.0/ path=/sys/bus/pci/devices/0000:3b:01.1/"
        ]
    );
    // It has one interface for all.
    let mixed = emit(Form::CloudHypervisor, &[vf(0), older], None, None).unwrap();
    assert!(!mixed[0].text.contains("--platform"), "{mixed:?}");
    assert_eq!((mixed[0].backend, mixed[0].functions.len()), (Some(Backend::Type1), 2));
}

#[test]
fn a_cluster_hears_what_it_needs_besides() {
    let notes = |form, node| emit(form, &[vf(0)], None, node).unwrap()[0].notes.join("\n");
    assert!(notes(Form::KubeVirt, None).contains("HostDevices"));
    let policy = texts(Form::NodePolicy, &[vf(0)], None).concat();
    assert!(policy.contains("\"node-7\""), "{policy}");
    for word in ["supported-nic-ids", "kubectl get nodes"] {
        assert!(notes(Form::NodePolicy, Some("node-7")).contains(word), "{word}");
    }
}

#[test]
fn cloud_hypervisor_gets_a_path() {
    assert_eq!(
        text(Form::CloudHypervisor, "10000:01:10.0", Backend::Type1),
        "--device path=/sys/bus/pci/devices/10000:01:10.0/"
    );
    assert_eq!(
        text(Form::CloudHypervisor, "01:10.0", Backend::Iommufd),
        "--platform iommufd=on --device path=/sys/bus/pci/devices/0000:01:10.0/"
    );
}

#[test]
fn libvirt_gets_the_four_parts_of_the_address() {
    let wanted = "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x1f' function='0x7'/>
  </source>
</hostdev>";
    assert_eq!(text(Form::Libvirt, "3b:1f.7", Backend::Type1), wanted);
}

#[test]
fn what_has_no_name_for_a_large_segment_refuses_it() {
    for (form, max) in [(Form::Libvirt, 0xffff), (Form::DevicePlugin, 0)] {
        let far = Handout {
            bdf: bdf("10000:01:10.0"),
            ..vf(1)
        };
        let error = refusal(form, far, None);
        let segment = 0x10000;
        assert_eq!(error.kind, ErrorKind::SegmentTooLarge { segment, max }, "{form:?}");
    }
}

#[test]
fn who_knows_no_iommufd_uses_the_older_interface_and_refuses_the_newer_one() {
    for form in [Form::Crosvm, Form::Firecracker] {
        let emitted = emit(form, &[vf(0)], None, None).unwrap();
        assert_eq!(emitted[0].backend, Some(Backend::Type1));
        let error = refusal(form, vf(1), Some(Backend::Iommufd));
        assert!(
            matches!(error.kind, ErrorKind::Unsupported { .. }) && error.fix().is_some(),
            "{error}"
        );
    }
    assert!(emit(Form::Firecracker, &[vf(0)], None, None).unwrap()[0].notes[0].contains("1.16"));
}

#[test]
fn command_lines() {
    let functions = [vf(0), vf(1)];
    let forms = [Form::Crosvm, Form::Firecracker];
    insta::assert_snapshot!(forms.map(|form| texts(form, &functions, None).join("\n")).join("\n\n"));
}

#[test]
fn container_device_interface() {
    let older = Handout {
        has_iommufd: false,
        ..vf(1)
    };
    let emitted = emit(Form::Cdi, &[vf(0), older], None, None).unwrap();
    assert_eq!(emitted[0].backend, None, "one of each");
    insta::assert_snapshot!(emitted[0].text);
}

#[test]
fn a_container_gets_only_what_has_a_node() {
    let native = Handout {
        driver: Some("iavf".to_owned()),
        is_on_vfio: false,
        ..vf(1)
    };
    let without_node = Handout { node: None, ..vf(1) };
    for function in [native, without_node] {
        let error = refusal(Form::Cdi, function, None);
        assert!(error.fix().unwrap().contains("sriovctl bind 0000:3b:01.1"), "{error}");
    }
    let without_group = Handout { group: None, ..vf(1) };
    assert!(
        refusal(Form::Cdi, without_group, Some(Backend::Type1))
            .to_string()
            .contains("group")
    );
}

#[test]
fn unit_of_all_vfs_of_a_pf() {
    insta::assert_snapshot!(texts(Form::Systemd, &[vf(0), vf(1)], None).concat());
}

#[test]
fn unit_of_some_vfs_and_of_a_function_of_its_own() {
    let some = |index| Handout {
        pf: Some(Pf {
            vf_driver: None,
            ..pf()
        }),
        ..vf(index)
    };
    let native = Handout {
        driver: Some("iavf".to_owned()),
        is_on_vfio: false,
        ..some(2)
    };
    let variant = Handout {
        driver: Some("mlx5_vfio_pci".to_owned()),
        ..function("5e:00.1")
    };
    insta::assert_snapshot!(
        texts(
            Form::Systemd,
            &[some(0), native, some(3), function("04:00.0"), variant],
            None
        )
        .concat()
    );
}

#[test]
fn a_unit_that_would_do_nothing_is_refused() {
    let idle = Handout {
        driver: Some("nvme".to_owned()),
        is_on_vfio: false,
        ..function("04:00.0")
    };
    let error = refusal(Form::Systemd, idle, None);
    assert!(error.to_string().contains("nothing to do"), "{error}");
}

#[test]
fn names_of_units_are_escaped() {
    assert_eq!(unit::escape("ens1f0"), "ens1f0");
    assert_eq!(unit::escape("br-lan@7"), "br\\x2dlan\\x407");
}

#[test]
fn device_plugin() {
    let native = Handout {
        driver: Some("iavf".to_owned()),
        is_on_vfio: false,
        ..vf(2)
    };
    let accelerator = Handout {
        class: Some(ClassCode(0x12_0000)),
        device: Some(DeviceId(0x4941)),
        ..function("6b:00.1")
    };
    let texts = texts(Form::DevicePlugin, &[vf(0), vf(1), native, accelerator], None);
    // What stands behind `config.json: |` is a document of its own.
    let (_, config) = texts[0].split_once("config.json: |\n").unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    assert_eq!(config["resourceList"].as_array().unwrap().len(), 3);
    insta::assert_snapshot!(texts[0]);
}

#[test]
fn node_policy() {
    // 0 and 1, 3, and all of another PF whose interface is not known.
    let other = |index| Handout {
        bdf: bdf(&format!("af:02.{index}")),
        driver: Some("iavf".to_owned()),
        is_on_vfio: false,
        pf: Some(Pf {
            bdf: bdf("af:00.0"),
            interface: None,
            vfs: 2,
            ..pf()
        }),
        ..vf(index)
    };
    let texts = texts(Form::NodePolicy, &[vf(3), vf(0), vf(1), other(1), other(0)], None);
    insta::assert_snapshot!(texts[0]);
    let unnamed = emit(Form::NodePolicy, &[vf(0)], None, None).unwrap();
    assert!(unnamed[0].text.contains("network-sriov.capable"), "{unnamed:?}");
}

#[test]
fn kubevirt() {
    let texts = texts(Form::KubeVirt, &[vf(0), vf(1), function("04:00.0")], None);
    insta::assert_snapshot!(texts[0]);
}

#[test]
fn a_cluster_is_not_told_what_it_cannot_use() {
    let drive = function("04:00.0");
    for form in [Form::DevicePlugin, Form::NodePolicy] {
        let error = refusal(form, drive.clone(), None);
        assert!(error.to_string().contains("network controllers"), "{error}");
        assert!(error.fix().unwrap().contains("kubevirt"), "{error}");
    }
    let unbound = Handout {
        driver: None,
        is_on_vfio: false,
        ..vf(1)
    };
    assert!(
        refusal(Form::DevicePlugin, unbound, None)
            .to_string()
            .contains("no driver")
    );
    let itself = Handout { index: None, ..vf(1) };
    assert!(refusal(Form::NodePolicy, itself, None).to_string().contains("not a VF"));
    let nameless = Handout {
        pf: Some(Pf {
            interface: None,
            ..pf()
        }),
        ..vf(1)
    };
    let error = emit(Form::NodePolicy, &[nameless], None, None).unwrap_err();
    assert!(error.fix().unwrap().contains("all VFs"), "{error}");
    let unknown = Handout { device: None, ..vf(1) };
    for form in [Form::DevicePlugin, Form::KubeVirt] {
        assert!(refusal(form, unknown.clone(), None).to_string().contains("not known"));
    }
}
