//! Results of the kernel's suites and of ours side by side, file by file.

use super::ours_beside;
use crate::report::Verdict;
use std::collections::BTreeMap;

/// Results by file, in the order in which the files came.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Row {
    file: String,
    ours: BTreeMap<String, Verdict>,
    theirs: Option<BTreeMap<String, Verdict>>,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn ours(&mut self, file: &str, results: &[(String, Verdict)]) {
        self.row(file).ours.extend(results.iter().cloned());
    }

    /// Cases of the kernel's, which get the names of ours.
    pub(super) fn theirs(&mut self, file: &str, results: &[(String, Verdict)]) {
        let named = results
            .iter()
            .map(|(name, verdict)| (ours_beside(file, name), verdict.clone()));
        self.row(file).theirs.get_or_insert_default().extend(named);
    }

    fn row(&mut self, file: &str) -> &mut Row {
        let position = self.rows.iter().position(|row| row.file == file);
        let position = position.unwrap_or_else(|| {
            self.rows.push(Row {
                file: file.to_owned(),
                ..Row::default()
            });
            self.rows.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the position was just found or made")]
        &mut self.rows[position]
    }

    pub(super) fn text(&self, title: &str) -> String {
        let mut text = format!("{title:<42}{:>24}{:>24}\n", "ours", "the kernel's own");
        let mut line = |name: &str, ours: [usize; 3], theirs: Option<[usize; 3]>| {
            let theirs = theirs.map_or_else(|| format!("{:>24}", "not run"), columns);
            text.push_str(&format!("{name:<42}{}{theirs}\n", columns(ours)));
        };
        let (mut ours, mut theirs) = ([0; 3], [0; 3]);
        let counts: Vec<_> = self
            .rows
            .iter()
            .map(|row| (&row.file, count(&row.ours), row.theirs.as_ref().map(count)))
            .collect();
        for (file, our, their) in &counts {
            line(file, *our, *their);
            add(&mut ours, *our);
            add(&mut theirs, their.unwrap_or_default());
        }
        let has_theirs = counts.iter().any(|(_, _, their)| their.is_some());
        line("sum: passed, failed, skipped", ours, has_theirs.then_some(theirs));
        text
    }

    /// Whether every case that the kernel's own suites pass is passed by ours; `None` when none of theirs was passed. With a filter only
    /// cases that it chooses are compared: of theirs all were run, of ours no other.
    pub(super) fn comparison(&self, filter: Option<&str>) -> Option<Verdict> {
        let mut compared = 0;
        let mut behind = Vec::new();
        for row in &self.rows {
            for (name, verdict) in row.theirs.iter().flatten() {
                let chosen = filter.is_none_or(|filter| name.contains(filter));
                if *verdict != Verdict::Passed || !chosen {
                    continue;
                }
                compared += 1;
                match row.ours.get(name) {
                    Some(Verdict::Passed | Verdict::Retried(_)) => {}
                    // Its reason is in its own entry.
                    Some(Verdict::Skipped(_)) => {}
                    Some(Verdict::Failed(_)) => behind.push(format!("{name} fails")),
                    None => behind.push(format!("{name} is not among ours")),
                }
            }
        }
        match (compared, behind.is_empty()) {
            (0, _) => None,
            (_, true) => Some(Verdict::Passed),
            (_, false) => Some(Verdict::Failed(behind.join("\n"))),
        }
    }
}

fn count(results: &BTreeMap<String, Verdict>) -> [usize; 3] {
    let mut counts = [0; 3];
    for verdict in results.values() {
        let [passed, failed, skipped] = &mut counts;
        *match verdict {
            Verdict::Passed | Verdict::Retried(_) => passed,
            Verdict::Failed(_) => failed,
            Verdict::Skipped(_) => skipped,
        } += 1;
    }
    counts
}

fn add(sum: &mut [usize; 3], more: [usize; 3]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

fn columns([passed, failed, skipped]: [usize; 3]) -> String {
    format!("{passed:>8}{failed:>8}{skipped:>8}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(results: &[(&str, Verdict)]) -> Vec<(String, Verdict)> {
        results
            .iter()
            .map(|(name, verdict)| ((*name).to_owned(), verdict.clone()))
            .collect()
    }

    #[test]
    fn a_case_that_only_theirs_pass_fails_the_comparison() {
        let failed = Verdict::Failed("no".into());
        let mut table = Table::default();
        table.ours(
            "iommufd",
            &named(&[
                ("conf_iommufd_ioas.no_domain.area", Verdict::Passed),
                ("conf_iommufd_change_process.basic", failed.clone()),
            ]),
        );
        assert_eq!(table.comparison(None), None);
        table.theirs(
            "iommufd",
            &named(&[
                ("iommufd_ioas.no_domain.area", Verdict::Passed),
                ("change_process.basic", failed.clone()),
            ]),
        );
        assert_eq!(table.comparison(None), Some(Verdict::Passed));
        table.theirs("iommufd", &named(&[("change_process.basic", Verdict::Passed)]));
        assert!(
            matches!(table.comparison(None), Some(Verdict::Failed(why)) if why.contains("change_process.basic fails"))
        );
        table.ours(
            "vfio_pci_device_test",
            &named(&[("conf_vfio_pci_device_test.reset", Verdict::Passed)]),
        );
        let text = table.text("conformance");
        assert!(text.contains("not run") && text.lines().count() == 4, "{text}");
    }

    #[test]
    fn a_filter_leaves_out_what_it_does_not_choose() {
        let mut table = Table::default();
        table.ours("iommufd", &named(&[("conf_iommufd_ioas.map", Verdict::Passed)]));
        table.theirs(
            "iommufd",
            &named(&[
                ("iommufd_ioas.map", Verdict::Passed),
                ("iommufd_ioas.map_file", Verdict::Passed),
                ("iommufd_viommu.alloc", Verdict::Passed),
            ]),
        );
        assert!(matches!(table.comparison(None), Some(Verdict::Failed(why)) if why.lines().count() == 2));
        // A chosen case of theirs that we do not have still counts.
        assert!(
            matches!(table.comparison(Some("ioas.map")), Some(Verdict::Failed(why)) if why == "conf_iommufd_ioas.map_file is not among ours")
        );
        table.ours("iommufd", &named(&[("conf_iommufd_ioas.map_file", Verdict::Passed)]));
        assert_eq!(table.comparison(Some("ioas.map")), Some(Verdict::Passed));
        assert_eq!(table.comparison(Some("dirty")), None);
    }
}
