//! What a file of the Container Device Interface must be.

use super::*;
use proptest::prelude::*;

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
