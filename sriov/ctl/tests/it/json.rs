//! JSON: one valid document per run, with every documented key, `null` for what is not known.

use crate::machine::{Machine, program};
use serde_json::Value;
use std::collections::BTreeSet;

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// Names that must be exactly the keys of an object.
fn set(names: &str) -> BTreeSet<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_command_prints_one_document_with_a_version() {
    let machine = Machine::new();
    for arguments in [
        &["list"][..],
        &["list", "--columns"],
        &["tree"],
        &["show", "ens1f0"],
        &["groups"],
        &["status"],
        &["log"],
        &["emit", "libvirt", "01:01.1"],
        &["emit", "cdi", "01:01.1"],
        &["run", "--vmm", "qemu", "01:01.1", "-N"],
        &["assign", "01:01.1", "--to", "qemu:/run/qmp", "-N"],
        &["unassign", "01:01.0", "--from", "libvirt:web", "-N"],
        &["explain"],
        &["completion", "fish"],
        &["util", "man"],
        &["util", "markdown"],
        &["plan", "vf", "create", "ens1f0", "5", "--driver", "vfio-pci"],
        &["plan", "bind", "01:01.4", "--driver", "vfio-pci"],
        // Failures too.
        &["list", "ens7"],
        &["list", "--filter", "x=1"],
        &["plan", "vf", "delete", "ens1f0"],
        &["undo"],
        &["undo", "-N"],
    ] {
        let ran = machine.run(&[arguments, &["--json"]].concat());
        let document = ran.json();
        assert_eq!(document["schema_version"], 1, "{arguments:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
        assert!(
            ran.stdout.ends_with('\n') && ran.stdout.trim_end().lines().count() == 1,
            "{arguments:?}"
        );
        if let Some(error) = document.get("error") {
            let documented = "code device step kind message causes held_by fix hints exit_code";
            assert_eq!(keys(error), set(documented), "{arguments:?}");
            assert_eq!(error["exit_code"].as_i64(), ran.code.map(i64::from), "{arguments:?}");
        }
    }
}

#[test]
fn a_column_alone_reads_what_it_needs() {
    let machine = Machine::new();
    let columns = machine.run(&["list", "--columns", "--json"]).json();
    for column in columns["columns"].as_array().unwrap() {
        let column = column["name"].as_str().unwrap();
        let list = machine.run(&["list", "--json", "-o", column]).json();
        for row in list["functions"].as_array().unwrap() {
            assert_ne!(row["unknown"][column], "not read");
        }
    }
}

#[test]
fn every_row_of_list_has_every_column() {
    let machine = Machine::new();
    let columns = machine.run(&["list", "--columns", "--json"]).json();
    let columns = columns["columns"].as_array().unwrap();
    let name = |column: &Value| column["name"].as_str().unwrap().to_owned();
    let mut documented: BTreeSet<String> = columns
        .iter()
        .filter(|column| column["on_request"] == false)
        .map(name)
        .collect();
    documented.insert("unknown".to_owned());
    let list = machine.run(&["list", "--json"]).json();
    let rows = list["functions"].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    for row in rows {
        assert_eq!(keys(row), documented, "{}", row["bdf"]);
    }

    let all: Vec<String> = columns.iter().map(name).collect();
    let list = machine.run(&["list", "--json", "-o", &all.join(",")]).json();
    for row in list["functions"].as_array().unwrap() {
        for column in columns {
            let value = &row[column["name"].as_str().unwrap()];
            let fits = match column["kind"].as_str().unwrap() {
                "string" => value.is_string(),
                "integer" => value.is_u64(),
                "boolean" => value.is_boolean(),
                "strings" => value.is_array(),
                other => panic!("{other}"),
            };
            assert!(fits || value.is_null(), "{}: {column}: {value}", row["bdf"]);
        }
    }
}

#[test]
fn rows_are_in_order_of_address_with_full_addresses() {
    let list = Machine::new().run(&["list", "--json"]).json();
    let addresses: Vec<pci::Bdf> = list["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["bdf"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(addresses.is_sorted());
    assert_eq!(list["functions"][0]["bdf"], "0000:00:01.0");
}

#[test]
fn what_cannot_be_read_is_null_with_its_reason() {
    let machine = Machine::new();
    let file = |name: &str| machine.tree.file(crate::machine::bdf("01:01.4"), name);
    machine.tree.write(file("numa_node"), "many\n").unwrap();
    machine.tree.write(file("power_state"), "D9\n").unwrap();
    std::fs::remove_file(machine.root().join(file("modalias"))).unwrap();
    std::fs::remove_file(machine.root().join(file("vendor"))).unwrap();
    let list = machine.run(&["list", "01:01.4", "--json"]).json();
    let row = &list["functions"][0];
    for (field, reason) in [
        ("numa", "malformed"),
        ("power", "malformed"),
        ("vendor", "no such file"),
    ] {
        assert!(row[field].is_null(), "{field}: {}", row[field]);
        let found = row["unknown"][field].as_str().unwrap();
        assert!(found.contains(reason), "{field}: {found}");
    }
    // No driver is a fact and not unknown.
    assert!(row["driver"].is_null() && row["unknown"].get("driver").is_none());

    let show = machine.run(&["show", "01:01.4", "--json"]).json();
    let function = &show["functions"][0];
    assert!(function["numa_node"].is_null() && function["vendor"].is_null());
    assert!(function["unknown"]["vendor"].as_str().unwrap().contains("no such file"));
}

#[test]
fn show_has_every_key_for_every_kind_of_function() {
    let machine = Machine::new();
    let documented = "bdf path class vendor device subsystem revision driver iommu_group numa_node link bars sriov vf_of ari \
                      reset_methods power_state parents class_devices isolation translation held_by used_for unknown config \
                      config_unknown";
    let show = machine.run(&["show", "*:*", "--json"]).json();
    let functions = show["functions"].as_array().unwrap();
    assert_eq!(functions.len(), 12);
    for function in functions {
        assert_eq!(keys(function), set(documented), "{}", function["bdf"]);
    }
    let pf = functions
        .iter()
        .find(|function| function["bdf"] == "0000:01:00.0")
        .unwrap();
    assert_eq!(pf["sriov"]["enabled"], 5);
    assert_eq!(pf["sriov"]["virtual_functions"][4]["bdf"], "0000:01:01.4");
    assert_eq!(pf["bars"][0]["len_bytes"], 32 << 20);
}

#[test]
fn documents_have_the_documented_keys() {
    let machine = Machine::new();
    let at = |arguments: &[&str], pointer: &str| {
        let document = machine.run(&[arguments, &["--json"]].concat()).json();
        keys(
            document
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{pointer} in {document}")),
        )
    };
    assert_eq!(at(&["tree"], ""), set("schema_version roots unmatched"));
    let branch = "bdf role name class driver group sriov devices children";
    assert_eq!(at(&["tree"], "/roots/0/children/0/children/0"), set(branch));
    let group = "group domain_type viable spoilers held_by functions others reserved_regions unknown";
    assert_eq!(at(&["groups"], "/groups/0"), set(group));
    let status = "schema_version functions processes not_seen uses_not_read unfinished_operation unknown unmatched";
    assert_eq!(at(&["status"], ""), set(status));
    assert_eq!(
        at(&["status"], "/functions/0"),
        set("bdf driver group state held_by used_for")
    );
    assert_eq!(at(&["status"], "/processes/0"), set("pid process command_line files"));
    let plan = &["plan", "bind", "01:01.4", "--driver", "vfio-pci"];
    let report = "schema_version operation steps warnings changed elapsed_ms timing functions";
    assert_eq!(at(plan, ""), set(report));
    let step = "bdf pf vf_index step action path value driver deadline_ms elapsed_ms";
    assert_eq!(at(plan, "/steps/0"), set(step));
    assert_eq!(
        at(&["run", "--vmm", "qemu", "01:01.1", "-N"], ""),
        set("schema_version bdf bdfs vmm interface command exit_status elapsed_ms")
    );
    let held = &["plan", "unbind", "01:01.0"];
    assert_eq!(
        at(held, "/error/held_by/0"),
        set("function pid process command_line through")
    );
    let assign = &["assign", "01:01.1", "--to", "qemu:/run/qmp", "-N"];
    assert_eq!(
        at(assign, ""),
        set("schema_version bdf vmm target id interface guest_address steps elapsed_ms")
    );
    assert_eq!(at(assign, "/steps/0"), set("request with"));
    let emit = &["emit", "qemu", "01:01.1"];
    assert_eq!(
        at(emit, "/configurations/0"),
        set("bdf bdfs format interface is_on_vfio text notes")
    );
    let all = Machine::new().run(&["emit", "kubevirt", "01:01.1", "01:01.2", "--json"]);
    let configuration = &all.json()["configurations"][0];
    assert_eq!(configuration["bdf"], Value::Null);
    assert_eq!(
        configuration["bdfs"],
        serde_json::json!(["0000:01:01.1", "0000:01:01.2"])
    );
    assert_eq!(configuration["interface"], Value::Null);
}

#[test]
fn what_did_not_match_is_listed() {
    let ran = Machine::new().run(&["list", "ens1f0", "ens7", "--json"]);
    assert_eq!(ran.code, Some(64));
    assert_eq!(ran.json()["unmatched"], serde_json::json!(["ens7"]));
}

#[test]
fn a_wrong_command_line_is_json_too() {
    let output = program().args(["--json", "lisst"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["kind"], "usage");
    assert_eq!(document["error"]["exit_code"], 2);
}
