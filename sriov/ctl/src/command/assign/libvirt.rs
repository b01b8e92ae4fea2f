//! libvirt, through its shell: `virsh attach-device` and `detach-device` with the element that `emit libvirt` prints.
//!
//! Follows libvirt `docs/manpages/virsh.rst`, `docs/formatdomain.rst`. Only the running guest is changed, not its configuration. Which
//! connection is used is virsh's own business (`LIBVIRT_DEFAULT_URI`).

use super::{Gift, Given, Pause, REFUSED, Step, Vmm, failing, is_refused};
use crate::exit::Exit;
use crate::failure::Failure;
use pci::Bdf;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sriov::hostdev;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// Where virsh finds what is written to it.
const STDIN: &str = "/dev/stdin";

/// A running domain.
#[derive(Debug)]
pub(super) struct Libvirt {
    virsh: PathBuf,
    domain: String,
    deadline: Instant,
    is_told: bool,
}

impl Libvirt {
    pub(super) fn new(virsh: PathBuf, domain: String, deadline: Instant) -> Self {
        Self {
            virsh,
            domain,
            deadline,
            is_told: false,
        }
    }

    fn arguments<'a>(&'a self, command: &'a str) -> [&'a str; 6] {
        [command, "--domain", &self.domain, "--file", STDIN, "--live"]
    }

    fn step(&self, command: &str, bdf: Bdf) -> Step {
        Step {
            request: format!(
                "{} {}\n{}",
                self.virsh.display(),
                self.arguments(command).join(" "),
                hostdev(bdf)
            ),
            with: None,
        }
    }

    /// Runs virsh and gives what it prints.
    fn virsh(&self, arguments: &[&str], input: &str) -> Result<String, Failure> {
        let step = format!("virsh {}", arguments.first().copied().unwrap_or_default());
        let failed = |error: &io::Error| {
            let failure = failing("virsh", error.to_string()).step(&step);
            failure.fix("install libvirt's client, or name virsh with --virsh")
        };
        let mut command = Command::new(&self.virsh);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Its messages are passed on, and its output is read.
        command.env("LC_ALL", "C");
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let stdin = child.stdin.take();
        let input = input.to_owned();
        let (sender, receiver) = mpsc::channel();
        // Both pipes are read and the third is written while the deadline runs.
        let worker = thread::spawn(move || {
            // Who ends without reading has said why.
            drop(stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            drop(sender.send(child.wait_with_output()));
        });
        let left = self.deadline.saturating_duration_since(Instant::now());
        let Ok(output) = receiver.recv_timeout(left) else {
            if let Some(Ok(pidfd)) = pidfd {
                let _ended_already = pidfd_send_signal(pidfd, Signal::KILL).is_err();
            }
            let failure = failing("timed_out", "virsh has not ended in time, and was killed").step(step);
            return Err(failure.fix("see whether libvirt answers: virsh list"));
        };
        drop(worker.join());
        let output = output.map_err(|error| failed(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<&str> = lines
            .by_ref()
            .map(|line| line.strip_prefix("error: ").unwrap_or(line))
            .collect();
        // What virsh itself says, then what libvirt says.
        let (message, causes) = lines.split_last().unwrap_or((&"virsh fails and does not say why", &[]));
        let causes = causes.iter().map(|&cause| cause.to_owned());
        let mut failure = failing(REFUSED, *message).step(step).causes(causes);
        if said.contains("ermission denied") || said.contains("authentication") {
            failure.exit = Exit::Denied;
        }
        if said.contains("no more available PCI slots") || said.contains("No more available PCI") {
            return Err(failure
                .fix("give the domain a free <controller type='pci' model='pcie-root-port'/> for each one to come"));
        }
        Err(failure)
    }

    fn lists(&self, bdf: Bdf) -> Result<bool, Failure> {
        let domain = self.virsh(&["dumpxml", "--domain", &self.domain], "")?;
        if !domain.contains("<domain") {
            return Err(failing("malformed", "virsh prints no domain").step("virsh dumpxml"));
        }
        Ok(hostdevs(&domain).contains(&bdf))
    }

    /// Whether it comes to that before the deadline.
    fn wait(&self, wanted: bool, bdf: Bdf) -> Result<bool, Failure> {
        let mut pause = Pause::until(self.deadline);
        let mut is_so = self.lists(bdf)? == wanted;
        while !is_so && pause.next() {
            is_so = match self.lists(bdf) {
                // The deadline came within a look.
                Err(failure) if failure.kind == "timed_out" => return Ok(false),
                lists => lists? == wanted,
            };
        }
        Ok(is_so)
    }
}

impl Vmm for Libvirt {
    fn peer(&mut self) -> Result<Option<u32>, Failure> {
        Ok(None)
    }

    fn steps(&self, gift: &Gift) -> Vec<Step> {
        vec![self.step("attach-device", gift.bdf)]
    }

    fn removal_steps(&self, bdf: Bdf) -> Vec<Step> {
        vec![self.step("detach-device", bdf)]
    }

    fn assign(&mut self, gift: &Gift) -> Result<Given, Failure> {
        if gift.is_demanded {
            let failure = Failure::usage("libvirt chooses the interface of the kernel itself");
            return Err(failure.fix("leave --interface out"));
        }
        if gift.bdf.segment.0 > 0xffff {
            let kind = sriov::ErrorKind::SegmentTooLarge {
                segment: gift.bdf.segment.0,
                max: 0xffff,
            };
            return Err(sriov::Error::new(gift.bdf, "virsh attach-device", kind).into());
        }
        if self.lists(gift.bdf)? {
            return Err(failing("assigned", "this guest has it already").step("virsh dumpxml"));
        }
        self.is_told = true;
        let attached = self.virsh(&self.arguments("attach-device"), &hostdev(gift.bdf));
        self.is_told = !is_refused(&attached);
        attached?;
        if !self.wait(true, gift.bdf)? {
            let message = "libvirt has accepted the function, and does not list it";
            return Err(failing("read_back", message).step("virsh dumpxml"));
        }
        Ok(Given {
            id: None,
            backend: None,
            address: None,
        })
    }

    fn is_told(&self) -> bool {
        self.is_told
    }

    fn has(&mut self, bdf: Bdf) -> Result<bool, Failure> {
        self.lists(bdf)
    }

    fn unassign(&mut self, bdf: Bdf) -> Result<(), Failure> {
        if !self.lists(bdf)? {
            return Err(failing("not_assigned", "this guest does not have it").step("virsh dumpxml"));
        }
        self.virsh(&self.arguments("detach-device"), &hostdev(bdf))?;
        if self.wait(false, bdf)? {
            return Ok(());
        }
        let failure = failing("timed_out", "the guest has not let go of it in time, and keeps it");
        Err(failure
            .step("virsh dumpxml")
            .fix("see that the guest runs and its driver can be unbound, then ask again, with a longer --timeout"))
    }
}

/// The functions of the host that a domain has, from the text of its description.
fn hostdevs(domain: &str) -> Vec<Bdf> {
    let parts = |text: &str, begin: &'static str, end: &'static str| -> Vec<String> {
        let parts = text.split(begin).skip(1);
        parts
            .filter_map(|part| Some(part.split_once(end)?.0.to_owned()))
            .collect()
    };
    let elements = parts(domain, "<hostdev", "</hostdev>");
    let sources = elements
        .iter()
        .flat_map(|element| parts(element, "<source", "</source>"));
    sources
        .flat_map(|source| parts(&source, "<address", ">"))
        .filter_map(|address| {
            let value = |name: &str| {
                let (_, rest) = address.split_once(&format!(" {name}="))?;
                let quote = rest.chars().next().filter(|c| "'\"".contains(*c))?;
                let value = rest.get(1..)?.split(quote).next()?;
                u32::from_str_radix(value.strip_prefix("0x")?, 16).ok()
            };
            let (domain, bus) = (value("domain")?, value("bus")?);
            let (slot, function) = (value("slot")?, value("function")?);
            format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}").parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_a_description_however_it_is_written() {
        let domain = r#"<domain type='kvm'><devices>
  <hostdev mode='subsystem' type='pci' managed='no'>
    <driver name='vfio'/>
    <source>
      <address domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>
    </source>
    <alias name='hostdev0'/>
    <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
  </hostdev>
  <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>
  <hostdev><source><address domain="0x0001" bus="0x3b" slot="0x1f" function="0x7"></address></source></hostdev>
  <interface type='hostdev'><source><address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></source></interface>
</devices></domain>"#;
        let found = hostdevs(domain);
        let names: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["0000:01:10.0", "0001:3b:1f.7"]);
        assert!(hostdevs("<hostdev><source><address").is_empty());
        let own: Bdf = "0000:af:02.1".parse().unwrap();
        assert_eq!(hostdevs(&hostdev(own)), [own]);
    }
}
