//! Reads the Test Anything Protocol as the kernel's test harness prints it (`Documentation/dev-tools/ktap.rst`).

use crate::report::Verdict;

/// What a program said about its cases.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    /// How many cases it announced.
    pub(crate) plan: Option<usize>,
    /// Cases by name, in the order in which they ended.
    pub(crate) results: Vec<(String, Verdict)>,
}

impl Tap {
    /// What was said between one result and the next belongs to the next, and is kept for a failure.
    pub(crate) fn read(text: &str) -> Self {
        let mut tap = Self::default();
        let mut said = String::new();
        for line in text.lines() {
            if let Some(plan) = line.strip_prefix("1..") {
                tap.plan = plan.split(' ').next().and_then(|count| count.parse().ok());
            } else if let Some((name, verdict)) = result(line, &said) {
                tap.results.push((name, verdict));
                said.clear();
            } else if line.starts_with("TAP version") {
                said.clear();
            } else if said.len() < 1 << 14 {
                said.push_str(line.strip_prefix("# ").unwrap_or(line));
                said.push('\n');
            }
        }
        tap
    }

    /// Why the program did not come to its end, if it did not.
    pub(crate) fn shortfall(&self) -> Option<String> {
        match self.plan {
            None => Some("it announced no cases".to_owned()),
            Some(plan) if plan != self.results.len() => {
                Some(format!("it announced {plan} cases and reported {}", self.results.len()))
            }
            Some(_) => None,
        }
    }
}

/// `ok 1 name`, `not ok 2 name`, `ok 3 name # SKIP reason`.
fn result(line: &str, said: &str) -> Option<(String, Verdict)> {
    let (good, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
    let name = name.trim_start_matches("- ").trim().to_owned();
    let verdict = match (good, directive.strip_prefix("SKIP")) {
        (_, Some(reason)) => Verdict::Skipped(reason.trim().to_owned()),
        (true, None) => Verdict::Passed,
        (false, None) => Verdict::Failed(said.to_owned()),
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_kernels_harness_are_read() {
        let text = "\
Using cdev device /dev/vfio/devices/vfio0
TAP version 13
1..4
# Starting 4 tests from 1 test cases.
#  RUN           vfio_cdev.bind ...
#            OK  vfio_cdev.bind
ok 1 vfio_cdev.bind
#  RUN           vfio_cdev.attach ...
# test.c:12:attach:Expected 0 (0) == rc (-1)
#          FAIL  vfio_cdev.attach
not ok 2 vfio_cdev.attach
#      SKIP      no device
ok 3 vfio_cdev.detach # SKIP no device
# FAILED: 2 / 3 tests passed.
";
        let tap = Tap::read(text);
        assert_eq!(tap.results.len(), 3);
        assert_eq!(tap.results[0], ("vfio_cdev.bind".to_owned(), Verdict::Passed));
        assert!(
            matches!(&tap.results[1].1, Verdict::Failed(said) if said.contains("Expected 0") && !said.contains("OK"))
        );
        assert_eq!(tap.results[2].1, Verdict::Skipped("no device".to_owned()));
        assert_eq!(tap.shortfall().as_deref(), Some("it announced 4 cases and reported 3"));
    }

    #[test]
    fn what_is_no_result_is_not_taken_for_one() {
        let tap = Tap::read("1..1\nok, so far\nok x y\nnot ok\nok 1 - named\n");
        assert_eq!(tap.results, [("named".to_owned(), Verdict::Passed)]);
        assert_eq!(tap.shortfall(), None);
        assert!(Tap::read("").shortfall().is_some());
    }
}
