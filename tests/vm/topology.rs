//! What is read of the lab's machine.

use crate::PASSED;
use crate::machine::{attribute, done, functions, json, link, physical_function, run, vfs};
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use serde_json::Value;
use std::process::Command;

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn listed() -> Result<Vec<Value>> {
    let document = json(&[
        "list",
        "-o",
        "bdf,vendor,device,driver,group,pf,vf,total_vfs,vfs,parent",
    ])?;
    document
        .get("functions")
        .and_then(Value::as_array)
        .cloned()
        .context("no functions")
}

pub(crate) fn knows_every_function() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "3", "--driver", "vfio-pci"])?;
    let listed = listed()?;
    let names: Vec<&str> = listed.iter().filter_map(|function| text(function, "bdf")).collect();
    let there = functions()?;
    ensure!(names == there, "listed {names:?}, there are {there:?}");
    for function in &listed {
        let bdf = text(function, "bdf").context("no bdf")?;
        ensure!(
            text(function, "driver") == link(bdf, "driver").as_deref(),
            "driver of {bdf}: {function}"
        );
        let vendor = attribute(bdf, "vendor")?;
        ensure!(
            text(function, "vendor") == vendor.strip_prefix("0x"),
            "vendor of {bdf}: {function}"
        );
        let group = link(bdf, "iommu_group").and_then(|group| group.parse::<u64>().ok());
        ensure!(
            function.get("group").and_then(Value::as_u64) == group,
            "group of {bdf}: {function}"
        );
    }
    for (index, vf) in vfs(&pf).iter().enumerate() {
        let function = listed
            .iter()
            .find(|function| text(function, "bdf") == Some(vf))
            .context("VF not listed")?;
        ensure!(text(function, "pf") == Some(&pf), "PF of {vf}: {function}");
        ensure!(
            function.get("vf").and_then(Value::as_u64) == Some(index as u64),
            "index of {vf}: {function}"
        );
    }
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn says_who_has_ats_enabled() -> Result<Outcome> {
    let pf = physical_function("virtio-pci")?;
    done(&["vf", "create", &pf, "2"])?;
    for bdf in [vec![pf.clone()], vfs(&pf)].concat() {
        let document = json(&["show", &bdf])?;
        let ats = document.pointer("/functions/0/translation/ats").context("no ats")?;
        ensure!(
            ats.get("enabled").and_then(Value::as_bool) == Some(true),
            "ATS of {bdf}: {ats}"
        );
    }
    done(&["vf", "delete", &pf])?;
    let igb = json(&["show", &physical_function("igb")?])?;
    let ats = igb.pointer("/functions/0/translation/ats").context("no ats")?;
    ensure!(ats.is_null(), "the NIC has no ATS: {ats}");
    PASSED
}

/// Same functions, same classes and ids as lspci sees.
pub(crate) fn agrees_with_lspci() -> Result<Outcome> {
    let lspci = run(Command::new("lspci").arg("-Dn"))?;
    ensure!(lspci.code == 0, "lspci: {}", lspci.stderr);
    let document = json(&["list", "-o", "bdf,class_code,vendor,device"])?;
    let functions = document
        .get("functions")
        .and_then(Value::as_array)
        .context("no functions")?;
    let ours: Vec<String> = functions
        .iter()
        .map(|function| {
            let get = |key| text(function, key).unwrap_or("?");
            format!(
                "{} {}: {}:{}",
                get("bdf"),
                get("class_code").get(..4).unwrap_or("?"),
                get("vendor"),
                get("device")
            )
        })
        .collect();
    let theirs: Vec<&str> = lspci
        .stdout
        .lines()
        .map(|line| line.split(" (").next().unwrap_or(line))
        .collect();
    ensure!(ours == theirs, "ours {ours:#?}\nlspci {theirs:#?}");
    PASSED
}

pub(crate) fn list_json_is_valid_and_complete() -> Result<Outcome> {
    let document = json(&["list"])?;
    ensure!(
        document.get("schema_version").and_then(Value::as_u64) == Some(1),
        "no schema version"
    );
    let functions = document
        .get("functions")
        .and_then(Value::as_array)
        .context("no functions")?;
    let keys = |function: &Value| {
        function
            .as_object()
            .map(|object| object.keys().cloned().collect::<Vec<_>>())
    };
    let first = functions.first().and_then(keys).context("no function")?;
    for function in functions {
        ensure!(keys(function).as_ref() == Some(&first), "a key is missing: {function}");
    }
    PASSED
}

pub(crate) fn switch_and_scalable_mode() -> Result<Outcome> {
    let nic = physical_function("igb")?;
    let tree = done(&["tree"])?;
    ensure!(tree.contains(&nic), "the tree lacks {nic}: {tree}");
    let document = json(&["show", &nic])?;
    let function = document.pointer("/functions/0").context("no function")?;
    let parents = function
        .get("parents")
        .and_then(Value::as_array)
        .context("no parents")?;
    ensure!(
        parents.len() == 3,
        "downstream port, upstream port, root port: {parents:?}"
    );
    let virtio = json(&["show", &physical_function("virtio-pci")?])?;
    let unit = virtio.pointer("/functions/0/translation/iommu").context("no iommu")?;
    for service in ["ats", "pri"] {
        ensure!(
            unit.get(service).and_then(Value::as_bool) == Some(true),
            "the unit in scalable mode serves {service}: {unit}"
        );
    }
    let pasid = unit.get("pasid_width_bits").and_then(Value::as_u64);
    ensure!(pasid == Some(20), "the unit has PASIDs of 20 bits: {unit}");
    PASSED
}
