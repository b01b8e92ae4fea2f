//! The sources of the workspace, and rules that each of them must keep.

use super::code::{Code, without_tests};
use super::{assert_none, finding, workspace};
use proc_macro2::TokenStream;
use std::collections::BTreeMap;
use std::fs::read_dir;
use std::path::Path;
use std::sync::LazyLock;

/// One source file.
pub(super) struct Source {
    pub(super) text: String,
    /// All of it.
    pub(super) all: Code,
    /// What becomes part of a program that is not a test.
    pub(super) shipped: Code,
}

/// Something that must not occur in some of the sources.
pub(super) struct Rule {
    /// What to tell those who break it.
    pub(super) says: &'static str,
    /// Which sources it is about, by path from the root of the workspace.
    pub(super) concerns: fn(&str) -> bool,
    /// The lines that break it.
    pub(super) finds: fn(&Source) -> Vec<usize>,
}

impl Rule {
    /// Fails when a source of the workspace breaks the rule, naming each line.
    pub(super) fn holds(&self) {
        let concerned = WORKSPACE.iter().filter(|(path, _)| (self.concerns)(path));
        let findings: Vec<_> = concerned
            .flat_map(|(path, source)| self.findings(path, source))
            .collect();
        assert_none(&findings);
    }

    /// Fails unless the sample breaks the rule at that place.
    pub(super) fn rejects(&self, path: &str, sample: &str) {
        assert!(!self.check(path, sample).is_empty(), "accepts {path}: {sample}");
    }

    /// Fails when the sample breaks the rule at that place.
    pub(super) fn accepts(&self, path: &str, sample: &str) {
        assert_none(&self.check(path, sample));
    }

    fn check(&self, path: &str, sample: &str) -> Vec<String> {
        let (source, _) = Source::parse(path, sample.to_owned());
        if (self.concerns)(path) {
            self.findings(path, &source)
        } else {
            Vec::new()
        }
    }

    fn findings(&self, path: &str, source: &Source) -> Vec<String> {
        let lines = (self.finds)(source).into_iter();
        lines.map(|line| finding(path, line, self.says)).collect()
    }
}

impl Source {
    /// With the names of the modules that are only for tests.
    fn parse(path: &str, text: String) -> (Self, Vec<String>) {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut test_modules = Vec::new();
        let shipped = Code::of(without_tests(stream.clone(), &mut test_modules));
        let all = Code::of(stream);
        (Self { text, all, shipped }, test_modules)
    }
}

/// Every source by its path from the root.
pub(super) static WORKSPACE: LazyLock<BTreeMap<String, Source>> = LazyLock::new(|| {
    let mut files = Vec::new();
    walk(&workspace(), "", &mut files);
    let mut sources = BTreeMap::new();
    let mut test_modules = Vec::new();
    for (path, text) in files {
        let (source, modules) = Source::parse(&path, text);
        let directory = ["/lib.rs", "/main.rs", "/mod.rs", ".rs"]
            .iter()
            .find_map(|end| path.strip_suffix(end))
            .unwrap();
        test_modules.extend(modules.into_iter().map(|name| format!("{directory}/{name}")));
        sources.insert(path, source);
    }
    for (path, source) in &mut sources {
        let is_of = |module: &String| {
            let rest = path.strip_prefix(module);
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if test_modules.iter().any(is_of) {
            source.shipped = Code::default();
        }
    }
    sources
});

#[expect(clippy::disallowed_methods, reason = "sources are no system files")]
fn walk(directory: &Path, path: &str, files: &mut Vec<(String, String)>) {
    for entry in read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            // Neither what was built nor what belongs to other tools.
            if name != "target" && !name.starts_with('.') {
                walk(&entry.path(), &path, files);
            }
        } else if name.ends_with(".rs") {
            files.push((path, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

#[test]
fn the_walk_finds_all_crates_and_tells_test_code_apart() {
    for crate_root in ["pci/src/lib.rs", "sriov/ctl/src/main.rs", "tests/lab/init/src/main.rs"] {
        assert!(WORKSPACE.contains_key(crate_root), "{crate_root}");
    }
    let is_shipped = |path: &str| !WORKSPACE[path].shipped.lines_naming(|_| true).is_empty();
    assert!(is_shipped("sriov/src/plan.rs"));
    assert!(!is_shipped("sriov/src/plan/tests.rs"));
    assert!(!is_shipped("sriov/src/plan/tests/bind.rs"));
}
