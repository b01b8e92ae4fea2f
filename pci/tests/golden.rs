//! What a dump says, for every dump in `tests/fixtures/config`. Each file holds the text above and the bytes below, as the example
//! `describe` prints them and `lspci -F` reads them. To accept a change of the text, describe the file anew:
//! `cargo run -p pci --example describe < FILE > NEW && mv NEW FILE`.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use pci::{CapabilityId, dump};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no fixtures");
    files
}

fn read(file: &Path) -> String {
    String::from_utf8(fs::read(file).unwrap()).unwrap()
}

#[test]
fn every_fixture_says_what_it_said() {
    for file in fixtures() {
        let text = read(&file);
        let said: String = dump::parse(&text)
            .unwrap()
            .iter()
            .map(|function| function.with_text() + "\n")
            .collect();
        for (index, (is, was)) in said.lines().zip(text.lines()).enumerate() {
            assert_eq!(is, was, "{}:{}", file.display(), index + 1);
        }
        assert_eq!(said.lines().count(), text.lines().count(), "{}", file.display());
    }
}

#[test]
fn the_fixtures_hold_every_capability_that_is_decoded() {
    let mut seen = BTreeSet::new();
    for file in fixtures() {
        for function in dump::parse(&read(&file)).unwrap() {
            for walk in [function.config.capabilities(), function.config.extended_capabilities()] {
                let whole = walk.items.iter().filter(|capability| {
                    let contents = capability.contents();
                    contents.field("raw").is_none() && contents.field("cut_off_at").is_none()
                });
                seen.extend(whole.map(pci::Capability::id));
            }
        }
    }
    let standard = [0x01, 0x05, 0x09, 0x0d, 0x10, 0x11, 0x13, 0x14].map(CapabilityId::Standard);
    let extended = [
        0x01, 0x03, 0x0b, 0x0d, 0x0e, 0x0f, 0x10, 0x13, 0x15, 0x17, 0x18, 0x19, 0x1b, 0x1d, 0x1e, 0x1f, 0x23, 0x24,
        0x25, 0x26, 0x2a, 0x2e, 0x30,
    ]
    .map(CapabilityId::Extended);
    assert_eq!(seen, standard.into_iter().chain(extended).collect());
}
