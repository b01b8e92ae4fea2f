//! SPDK's `spdk_nvme_perf` and libvfn's `perf`, which no distribution brings: taken where they are on the path.
//!
//! Both run for whole seconds and print tables: SPDK's has a line `Total`, libvfn's a line of numbers under `iops mbps …`.

use super::load::{Load, checked};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Names that libvfn's has: the kernel's `perf` has one of them, too.
const LIBVFN: [&str; 2] = ["vfn-perf", "perf"];

/// The rate, and how many reads it was.
pub(crate) fn spdk(nvme: &str, load: Load) -> Result<(f64, u64)> {
    let mut command = Command::new("spdk_nvme_perf");
    // A core for each thread, and little memory: the lab's huge pages are few.
    let cores = format!("{:#x}", (1_u32 << load.threads) - 1);
    command.args(["-w", "randread", "-t", "1", "-s", "64", "-c", &cores]);
    command.args(["-q", &load.depth.to_string(), "-o", &load.bytes.to_string()]);
    let said = checked(command.args(["-r", &format!("trtype:PCIe traddr:{nvme}")]))?;
    of_a_second(total(&said).with_context(|| format!("spdk_nvme_perf said {said}"))?)
}

/// As above. It has one queue and reads a block at a time.
pub(crate) fn libvfn(nvme: &str, load: Load) -> Result<(f64, u64)> {
    let program = libvfn_program()?;
    ensure!(
        load.threads == 1 && load.bytes == 512,
        "it has one queue, and reads one block at a time"
    );
    let mut command = Command::new(program);
    command.args(["--device", nvme, "--nsid", "1", "--runtime", "1"]);
    command.args(["--io-pattern", "randread", "--io-depth", &load.depth.to_string()]);
    let said = checked(&mut command)?;
    of_a_second(under_iops(&said).with_context(|| format!("{program} said {said}"))?)
}

fn libvfn_program() -> Result<&'static str> {
    let is_it = |name: &&str| {
        let output = Command::new(name).arg("--help").output();
        output.is_ok_and(|output| [output.stdout, output.stderr].iter().any(|text| has_nsid(text)))
    };
    let found = LIBVFN.into_iter().find(is_it);
    Ok(found.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "libvfn's perf is not on the path"))?)
}

fn has_nsid(help: &[u8]) -> bool {
    String::from_utf8_lossy(help).contains("--nsid")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of reads"
)]
fn of_a_second(rate: f64) -> Result<(f64, u64)> {
    ensure!(rate.is_finite() && rate > 0.0, "it has read nothing");
    Ok((rate, rate as u64))
}

/// Reads per second in SPDK's table.
fn total(said: &str) -> Option<f64> {
    let line = said.lines().rev().find(|line| line.starts_with("Total"))?;
    let (_, figures) = line.split_once(':')?;
    figures.split_whitespace().next()?.parse().ok()
}

/// Reads per second in libvfn's table.
fn under_iops(said: &str) -> Option<f64> {
    let mut lines = said.lines().skip_while(|line| {
        let mut words = line.split_whitespace();
        (words.next(), words.next()) != (Some("iops"), Some("mbps"))
    });
    lines.nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spdks_total_is_read() {
        let said = "Initialization complete. Launching workers.\n\
            ======\n\
            \x20                                                   Latency(us)\n\
            Device Information            :       IOPS      MiB/s    Average        min        max\n\
            PCIE (0000:01:00.0) NSID 1 from core  0:   50000.50     195.31     640.00      12.00     900.00\n\
            PCIE (0000:01:00.0) NSID 1 from core  1:   40000.25     156.25     800.00      13.00     950.00\n\
            ======\n\
            Total                         :   90000.75     351.57     711.00      12.00     950.00\n\n";
        assert_eq!(total(said), Some(90_000.75));
        assert_eq!(total("Initializing NVMe Controllers\n"), None);
        assert_eq!(total("Total: nothing\n"), None);
    }

    #[test]
    fn libvfns_line_under_its_heading_is_read() {
        let said = "note: iops are few\n      iops       mbps       lavg       lmin       lmax\n  \
            71234.00      34.78      14.01       9.10     310.22\n";
        assert_eq!(under_iops(said), Some(71_234.0));
        assert_eq!(under_iops("      iops       mbps\n"), None);
        assert!(of_a_second(0.0).is_err() && of_a_second(f64::NAN).is_err());
    }

    #[test]
    fn the_kernels_perf_is_not_libvfns() {
        assert!(has_nsid(b"-N|--nsid <NSID>  namespace identifier"));
        assert!(!has_nsid(b"usage: perf [--version] [--help] [OPTIONS] COMMAND [ARGS]"));
    }
}
