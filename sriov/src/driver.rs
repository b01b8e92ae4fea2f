//! Drivers as plans see them: which one is wanted, and which ones take whatever they are told to.

use std::fmt;
use std::str::FromStr;

/// The driver that functions should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedDriver {
    /// Whichever the kernel chooses by itself. Spelled `native`.
    Native,
    /// This one.
    Named(String),
}

impl FromStr for WantedDriver {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "native" => Self::Native,
            name => Self::Named(name.to_owned()),
        })
    }
}

impl fmt::Display for WantedDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Whether a driver hands functions out through VFIO: `vfio-pci` and its variants, such as `mlx5_vfio_pci`.
pub(crate) fn is_vfio(name: &str) -> bool {
    name.ends_with("vfio-pci") || name.ends_with("vfio_pci")
}

/// Whether a driver only keeps functions for somebody else, so that giving a function back means taking it from there.
pub(crate) fn is_placeholder(name: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "pci-stub",
        "pci-pf-stub",
        "uio_pci_generic",
        "igb_uio",
        "pciback",
        "xen_pciback",
    ];
    is_vfio(name) || OTHERS.contains(&name)
}

/// The `driver_override` under which a driver is to take functions. An override makes any driver match any function, so only
/// drivers that touch no registers of their own accord get one; for all others the kernel asks their id tables.
pub(crate) fn override_for(name: &str) -> Option<&str> {
    is_placeholder(name).then_some(name)
}

/// Names of drivers that somebody who typed `name` may have meant, best first.
pub(crate) fn similar(name: &str, drivers: &[String]) -> Vec<String> {
    /// Below this two names have little more in common than their alphabet.
    const ALIKE: f64 = 0.8;
    /// More is no help.
    const AT_MOST: usize = 3;
    // Modules have underscores where most of their drivers have hyphens.
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let likeness = |driver: &String| (strsim::jaro_winkler(&plain(name), &plain(driver)), driver.clone());
    let mut alike: Vec<_> = drivers
        .iter()
        .map(likeness)
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    alike.into_iter().take(AT_MOST).map(|(_, driver)| driver).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_drivers_are_vfio_drivers_and_uio_is_a_placeholder() {
        for name in ["vfio-pci", "mlx5_vfio_pci", "hisi-acc-vfio-pci"] {
            assert!(is_vfio(name) && is_placeholder(name), "{name}");
        }
        for name in ["uio_pci_generic", "pci-stub"] {
            assert!(!is_vfio(name) && is_placeholder(name), "{name}");
        }
        for name in ["igb", "nvme", "pcieport", ""] {
            assert!(!is_placeholder(name), "{name}");
        }
    }

    #[test]
    fn a_mistyped_driver_is_recognised() {
        let drivers = ["igb", "igbvf", "nvme", "pcieport", "vfio-pci"].map(str::to_owned);
        assert_eq!(similar("vfio_pci", &drivers), ["vfio-pci"]);
        assert_eq!(similar("vfi-pci", &drivers), ["vfio-pci"]);
        assert_eq!(similar("igpvf", &drivers).first().map(String::as_str), Some("igbvf"));
        assert!(similar("zzz", &drivers).is_empty());
    }

    #[test]
    fn native_is_a_word_of_its_own() {
        assert_eq!("native".parse(), Ok(WantedDriver::Native));
        assert_eq!("igb".parse(), Ok(WantedDriver::Named("igb".to_owned())));
    }
}
