use super::*;
use proptest::prelude::*;
use serde_json::Value;

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
    let emitted = emit(form, functions, wanted, Some("node-7")).unwrap();
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

/// What versions 0.8.0 and 1.0.0 of the specification demand of a file: its schema, the names its parser takes, and what the version that it
/// names has.
fn check_cdi(text: &str) -> Result<(), String> {
    let only = |value: &Value, known: &[&str], required: &[&str]| -> Result<(), String> {
        let object = value.as_object().ok_or("not an object")?;
        let strange: Vec<_> = object.keys().filter(|key| !known.contains(&key.as_str())).collect();
        let missing: Vec<_> = required.iter().filter(|key| !object.contains_key(**key)).collect();
        match strange.is_empty() && missing.is_empty() {
            true => Ok(()),
            false => Err(format!("strange {strange:?}, missing {missing:?}")),
        }
    };
    let is_name = |name: &str, inner: &str, begins: fn(char) -> bool| {
        name.starts_with(begins)
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
    };
    let string = |value: &Value| value.as_str().map(str::to_owned).ok_or("not a string");
    let check_edits = |edits: &Value| -> Result<(), String> {
        let known = ["env", "deviceNodes", "mounts", "hooks", "additionalGids", "intelRdt"];
        only(edits, &known, &[])?;
        for node in edits["deviceNodes"].as_array().into_iter().flatten() {
            let known = [
                "path",
                "hostPath",
                "type",
                "major",
                "minor",
                "fileMode",
                "permissions",
                "uid",
                "gid",
            ];
            only(node, &known, &["path"])?;
            if !string(&node["path"])?.starts_with("/dev/") {
                return Err("a node elsewhere".to_owned());
            }
            let permissions = string(&node["permissions"])?;
            if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(permissions);
            }
        }
        Ok(())
    };
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let known = ["cdiVersion", "kind", "annotations", "devices", "containerEdits"];
    only(&document, &known, &["cdiVersion", "kind", "devices"])?;
    let versions = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];
    let version = string(&document["cdiVersion"])?;
    let version = versions.iter().position(|known| *known == version).ok_or(version)?;
    let kind = string(&document["kind"])?;
    let (vendor, class) = kind.split_once('/').ok_or("a kind without a vendor")?;
    if !is_name(vendor, "_-.", |c| c.is_ascii_alphabetic()) || !is_name(class, "_-.", |c| c.is_ascii_alphabetic()) {
        return Err(kind);
    }
    let devices = document["devices"].as_array().ok_or("no devices")?;
    let mut names = std::collections::BTreeSet::new();
    for device in devices {
        only(
            device,
            &["name", "annotations", "containerEdits"],
            &["name", "containerEdits"],
        )?;
        let name = string(&device["name"])?;
        // Since 0.5.0.
        let begins = |c: char| c.is_ascii_alphanumeric();
        if !is_name(&name, "_-.:", begins) || (version < 2 && name.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(name);
        }
        if device["containerEdits"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
        {
            return Err(format!("{name} has no edits"));
        }
        check_edits(&device["containerEdits"])?;
        if !names.insert(name.clone()) {
            return Err(format!("{name} is there twice"));
        }
    }
    match devices.is_empty() {
        true => Err("no device".to_owned()),
        false => Ok(()),
    }
}

#[test]
fn the_check_of_cdi_files_finds_what_is_wrong() {
    let good = texts(Form::Cdi, &[vf(0), vf(1)], None).concat();
    check_cdi(&good).unwrap();
    for (from, to) in [
        ("0.5.0", "0.4.0"),
        ("0.5.0", "2.0.0"),
        ("sriovctl/vfio", "vfio"),
        ("sriovctl/vfio", "8086/vfio"),
        ("deviceNodes", "deviceNode"),
        ("\"rw\"", "\"rx\""),
        ("0000:3b:01.1", "0000:3b:01.0"),
        ("0000:3b:01.1", ":3b:01.1"),
        ("containerEdits", "edits"),
        ("/dev/iommu", "iommu"),
        ("\"path\"", "\"hostPath\""),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(check_cdi(&good.replace(from, to)).is_err(), "{from} → {to}");
    }
}

proptest! {
    #[test]
    fn cdi_files_are_what_the_specification_demands(
        segment in 0..=0xf_ffff_u32, id in any::<u16>(), group in any::<u32>(), node in any::<u32>(), has_iommufd: bool,
    ) {
        let address = format!("{segment:04x}:{:02x}:{:02x}.{:x}", id >> 8, id >> 3 & 31, id & 7);
        let function = Handout { bdf: bdf(&address), group: Some(GroupId(group)), node: Some(node), has_iommufd, ..vf(0) };
        let text = texts(Form::Cdi, &[function], None).concat();
        prop_assert_eq!(check_cdi(&text), Ok(()), "{}", text);
    }
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
