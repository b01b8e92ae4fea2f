//! "Did you mean …?": names that look like one that does not exist.

const LIKENESS: f64 = 0.7;
const MOST: usize = 3;

/// Up to three of `candidates` that look most like `wanted`, best first.
pub(crate) fn similar<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// The hint line, if anything is similar.
pub(crate) fn hint<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let found = similar(wanted, candidates);
    (!found.is_empty()).then(|| format!("did you mean {}?", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        assert_eq!(similar("vfio-pic", ["vfio-pci", "nvme", "igb"]), ["vfio-pci"]);
        assert_eq!(similar("ens1f3", ["ens1f0", "ens1f1", "lo"]), ["ens1f0", "ens1f1"]);
        assert!(similar("xyz", ["vfio-pci"]).is_empty());
    }
}
